defmodule Leash.Environment do
  # The VM's environment as bytes, at the moment of the call. `Port.open/2` hands it on, and a
  # shim of the warden gets it.
  @moduledoc false

  alias Leash.Native

  @typedoc "Variables, each as `NAME=value` with a NUL behind it, and their number."
  @type t :: {binary(), non_neg_integer()}

  @doc """
  Returns the environment with these changes. `nil` unsets a variable.

  If a name is changed twice, the last change counts.
  """
  @spec with_changes([{String.t(), String.t() | nil}]) :: t()
  def with_changes(changes) do
    changes = Map.new(changes)
    inherited = Enum.reduce(changes, :os.env(), &without/2)
    set = for {name, value} <- changes, value != nil, do: [name, ?=, value, 0]
    {text(inherited) <> IO.iodata_to_binary(set), length(inherited) + length(set)}
  end

  # Most changed names are not in the VM's environment, which one look shows.
  defp without({name, _value}, variables) do
    name = characters(name, :file.native_name_encoding())

    if :lists.keymember(name, 1, variables),
      do: List.keydelete(variables, name, 0),
      else: variables
  end

  # Characters below 128 are the same in any encoding, and most environments have no others.
  defp text(variables) do
    text = :erlang.iolist_to_binary(for {name, value} <- variables, do: [name, ?=, value, 0])

    if byte_size(:unicode.characters_to_binary(text, :latin1)) == byte_size(text),
      do: text,
      else: text_by_variable(variables)
  rescue
    # A character above 255.
    ArgumentError -> text_by_variable(variables)
  end

  # Only the VM's own copy has the bytes. Here, text that is invalid in the encoding of file names
  # looks like valid text.
  defp text_by_variable(variables) do
    encoding = :file.native_name_encoding()

    for {name, value} <- variables, into: "" do
      name = bytes(name, encoding)
      name <> "=" <> (Native.variable(name) || bytes(value, encoding)) <> <<0>>
    end
  end

  # Returns the name in the form of `:os.env/0`.
  defp characters(name, :latin1), do: :erlang.binary_to_list(name)
  defp characters(name, :utf8), do: String.to_charlist(name)

  defp bytes(characters, encoding),
    do: :unicode.characters_to_binary(characters, :unicode, encoding)
end
