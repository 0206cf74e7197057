defmodule Leash.Environment do
  # The VM's environment as bytes, at the moment of the call: what `Port.open/2` hands on, and a shim of the warden gets.
  @moduledoc false

  alias Leash.Native

  @typedoc "Variables, each as `NAME=value` with a NUL behind it, and how many."
  @type t :: {binary(), non_neg_integer()}

  @doc """
  The environment with these changes on top; `nil` unsets. Of two changes of one name the last counts.
  """
  @spec with_changes([{String.t(), String.t() | nil}]) :: t()
  def with_changes(changes) do
    changes = Map.new(changes)
    inherited = Enum.reduce(changes, :os.env(), &without/2)
    set = for {name, value} <- changes, value != nil, do: [name, ?=, value, 0]
    {text(inherited) <> IO.iodata_to_binary(set), length(inherited) + length(set)}
  end

  # Most changes are of names that the VM does not have, which one look tells.
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

  # Only the VM's own copy has the bytes: what is no text in the encoding of file names looks here like one that is.
  defp text_by_variable(variables) do
    encoding = :file.native_name_encoding()

    for {name, value} <- variables, into: "" do
      name = bytes(name, encoding)
      name <> "=" <> (Native.variable(name) || bytes(value, encoding)) <> <<0>>
    end
  end

  # As `:os.env/0` has the name.
  defp characters(name, :latin1), do: :erlang.binary_to_list(name)
  defp characters(name, :utf8), do: String.to_charlist(name)

  defp bytes(characters, encoding),
    do: :unicode.characters_to_binary(characters, :unicode, encoding)
end
