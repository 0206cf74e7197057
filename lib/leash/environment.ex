defmodule Leash.Environment do
  # The VM's environment as bytes, at the moment of the call. `Port.open/2` hands it on, and a
  # shim of the warden gets it.
  @moduledoc false

  alias Leash.Native

  @typedoc "Variables, each as `NAME=value` with a NUL behind it, and their number."
  @type t :: {binary(), non_neg_integer()}

  @typedoc "The names of variables that a program inherits from the VM."
  @type inherited :: :all | [String.t()]

  @doc """
  Returns the environment with these changes. `nil` unsets a variable.

  If a name is changed twice, the last change counts.
  """
  @spec with_changes([{String.t(), String.t() | nil}], inherited()) :: t()
  def with_changes(changes, inherited \\ :all) do
    changes = Map.new(changes)
    inherited = Enum.reduce(changes, variables(inherited), &without/2)
    set = for {name, value} <- changes, value != nil, do: [name, ?=, value, 0]
    {text(inherited) <> IO.iodata_to_binary(set), length(inherited) + length(set)}
  end

  @doc "Returns the names that a program with these options inherits."
  @spec inherited(map()) :: inherited()
  def inherited(%{clear_env: true}), do: []
  def inherited(%{clear_env: [_ | _] = names}), do: names
  def inherited(_options), do: :all

  @typedoc "Changes as `Port.open/2` takes them."
  @type port_changes :: [{charlist(), charlist() | [[]] | false}]

  @doc """
  Returns the changes of a port's environment, with those that unset what its program does not
  inherit.
  """
  @spec for_port(map(), port_changes()) :: port_changes()
  def for_port(options, changes) do
    case inherited(options) do
      :all ->
        changes

      names ->
        others = :os.env() -- variables(names)

        for({name, _value} <- others, not List.keymember?(changes, name, 0), do: {name, false}) ++
          changes
    end
  end

  defp variables(:all), do: :os.env()
  defp variables([]), do: []

  defp variables(names) do
    encoding = :file.native_name_encoding()
    names = Enum.map(names, &characters(&1, encoding))
    for {name, _value} = variable <- :os.env(), name in names, do: variable
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
