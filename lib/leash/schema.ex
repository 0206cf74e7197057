defmodule Leash.Schema do
  # One description per entry point validates, documents and types its options, so that the three
  # cannot drift apart.
  #
  # A schema is a keyword list: option => [type: type, doc: text, default: value]. A type is
  # {test, expectation, typespec}: the test of the value, the text for a wrong value, and the
  # quoted typespec.
  #
  # A test is a remote capture, or {module, function, more}, which is called with the value and
  # then `more`. So a schema is a literal and can be a module attribute, where it costs a call
  # nothing. Closures in attributes do not survive compilation on OTP 28.
  @moduledoc false

  alias Leash.OptionsError

  @enforce_keys [:options, :types, :defaults]
  defstruct @enforce_keys

  @type test :: (term() -> boolean()) | {module(), atom(), [term()]}
  @type type :: {test(), String.t(), Macro.t()}
  @type options :: [{atom(), keyword()}]
  @type t :: %__MODULE__{
          options: options(),
          types: %{optional(atom()) => type()},
          defaults: %{optional(atom()) => term()}
        }

  @doc "Returns the schema of these options."
  @spec new(options()) :: t()
  def new(options) do
    %__MODULE__{
      options: options,
      types: Map.new(options, fn {key, rules} -> {key, Keyword.fetch!(rules, :type)} end),
      defaults: Map.new(options, fn {key, rules} -> {key, rules[:default]} end)
    }
  end

  @doc "Returns the names of the options."
  @spec keys(t()) :: [atom()]
  def keys(schema), do: Keyword.keys(schema.options)

  @doc "Checks options against a schema and returns them all, defaults filled in."
  @spec validate(t(), keyword() | map()) :: {:ok, map()} | {:error, OptionsError.t()}
  def validate(schema, options) when is_map(options), do: validate(schema, Map.to_list(options))

  def validate(schema, options) do
    if Keyword.keyword?(options),
      do: check(options, schema, %{}),
      else: error(nil, "a keyword list or a map with atom keys", options)
  end

  # A default is as good as its schema, and is not tested.
  defp check([], schema, given), do: {:ok, Map.merge(schema.defaults, given)}

  # If an option is given twice, the first one counts, as in Keyword.get/2.
  defp check([{key, _value} | options], schema, given) when is_map_key(given, key),
    do: check(options, schema, given)

  defp check([{key, value} | options], schema, given) do
    case schema.types do
      %{^key => {test, expected, _spec}} ->
        if passes?(test, value),
          do: check(options, schema, Map.put(given, key, value)),
          else: error(key, expected, value)

      _unknown ->
        error(nil, "one of #{inspect(keys(schema))}", key)
    end
  end

  defp passes?({module, function, more}, value), do: apply(module, function, [value | more])
  defp passes?(test, value), do: test.(value)

  @doc "Returns the error for one option."
  @spec error(atom() | nil, String.t(), term()) :: {:error, OptionsError.t()}
  def error(key, expected, value),
    do: {:error, %OptionsError{key: key, expected: expected, value: value}}

  @doc """
  Returns the value, or raises the error.

  Every public function raises the error of wrong options, and returns all other errors.
  """
  @spec unwrap!({:ok, value} | {:error, OptionsError.t()}) :: value when value: term()
  def unwrap!({:ok, value}), do: value
  def unwrap!({:error, %OptionsError{} = error}), do: raise(error)

  @doc "Raises the error for one option."
  @spec refuse!(atom() | nil, String.t(), term()) :: no_return()
  def refuse!(key, expected, value),
    do: raise(OptionsError, key: key, expected: expected, value: value)

  @doc "Returns the options as a Markdown list for a `@doc`."
  @spec docs(t()) :: String.t()
  def docs(schema) do
    Enum.map_join(schema.options, "\n", fn {key, rules} ->
      {_test, expected, _spec} = rules[:type]
      "  * `#{inspect(key)}` - #{rules[:doc]} Expects #{expected}#{default(rules)}.\n"
    end)
  end

  defp default(rules) do
    case rules[:default] do
      nil -> ""
      value -> "; default `#{inspect(value)}`"
    end
  end

  @doc "Returns the quoted type of one option, for `@type option :: unquote(typespec(schema))`."
  @spec typespec(t()) :: Macro.t()
  def typespec(schema) do
    schema.options
    |> Enum.map(fn {key, rules} -> {key, elem(rules[:type], 2)} end)
    |> Enum.reverse()
    |> Enum.reduce(fn option, rest -> quote(do: unquote(option) | unquote(rest)) end)
  end

  @doc """
  The type of a binary without NUL bytes, or nil.

  No argument, path or variable can carry NUL bytes.
  """
  @spec optional_text() :: type()
  def optional_text do
    {&__MODULE__.optional_text?/1, "a string without NUL bytes", quote(do: String.t() | nil)}
  end

  @doc false
  @spec optional_text?(term()) :: boolean()
  def optional_text?(value), do: value == nil or text?(value)

  @doc false
  @spec text?(term()) :: boolean()
  def text?(value),
    do: is_binary(value) and value != "" and :binary.match(value, <<0>>) == :nomatch

  @doc "The type of one of a few atoms."
  @spec one_of([atom()]) :: type()
  def one_of(atoms) do
    spec =
      Enum.reduce(Enum.reverse(atoms), fn atom, rest ->
        quote(do: unquote(atom) | unquote(rest))
      end)

    {{__MODULE__, :one_of?, [atoms]}, Enum.map_join(atoms, " or ", &inspect/1), spec}
  end

  @doc false
  @spec one_of?(term(), [atom()]) :: boolean()
  def one_of?(value, atoms), do: value in atoms

  @doc "The type of an output's target: one of a few atoms, or a file to append to."
  @spec target([atom()]) :: type()
  def target(atoms) do
    spec = Enum.reduce(atoms, quote(do: {:file, Path.t()}), &quote(do: unquote(&1) | unquote(&2)))

    {{__MODULE__, :target?, [atoms]},
     Enum.map_join(atoms, ", ", &inspect/1) <> " or {:file, path}", spec}
  end

  @doc false
  @spec target?(term(), [atom()]) :: boolean()
  def target?({:file, path}, _atoms), do: text?(path)
  def target?(value, atoms), do: value in atoms

  @doc "The type of a number of milliseconds."
  @spec milliseconds() :: type()
  def milliseconds do
    {&__MODULE__.milliseconds?/1, "a non-negative number of milliseconds",
     quote(do: non_neg_integer())}
  end

  @doc false
  @spec milliseconds?(term()) :: boolean()
  def milliseconds?(value), do: is_integer(value) and value in 0..0x7FFFFFFF

  @doc "The type of a positive number of a unit, or nil."
  @spec optional_positive(String.t()) :: type()
  def optional_positive(unit),
    do:
      {&__MODULE__.optional_positive?/1, "a positive number of #{unit}",
       quote(do: pos_integer() | nil)}

  @doc false
  @spec optional_positive?(term()) :: boolean()
  def optional_positive?(value), do: value == nil or (is_integer(value) and value > 0)

  @doc "The type of `true` or `false`."
  @spec boolean() :: type()
  def boolean, do: {&:erlang.is_boolean/1, "true or false", quote(do: boolean())}

  @doc """
  Returns whether it is a keyword list of pairs that pass a test, each key at most once.

  An option that consists of options uses it.
  """
  @spec each_once?(term(), ({atom(), term()} -> boolean())) :: boolean()
  def each_once?(options, test) do
    Keyword.keyword?(options) and Enum.all?(options, test) and
      options == Enum.uniq_by(options, &elem(&1, 0))
  end

  @doc "The type of values that a test accepts."
  @spec custom(test(), String.t(), Macro.t()) :: type()
  def custom(test, expected, spec), do: {test, expected, spec}
end
