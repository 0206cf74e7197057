defmodule Leash.Schema do
  # One description per entry point that validates, documents and types its options, so that the
  # three cannot drift apart.
  #
  # A schema is a keyword list: option => [type: type, doc: text, default: value, required: true].
  # A type is {test, expectation, typespec}: a function that says whether the value is good, what
  # to write when it is not, and the quoted typespec.
  @moduledoc false

  alias Leash.OptionsError

  @type type :: {(term() -> boolean()), String.t(), Macro.t()}
  @type t :: [{atom(), keyword()}]

  @doc "Checks options against a schema and returns them all, defaults filled in."
  @spec validate(t(), keyword() | map()) :: {:ok, map()} | {:error, OptionsError.t()}
  def validate(schema, options) when is_map(options), do: validate(schema, Map.to_list(options))

  def validate(schema, options) do
    with :ok <- check_keyword(options),
         :ok <- check_known(schema, options) do
      collect(schema, options)
    end
  end

  defp check_keyword(options) do
    if Keyword.keyword?(options),
      do: :ok,
      else: error(nil, "a keyword list or a map with atom keys", options)
  end

  defp check_known(schema, options) do
    case Enum.find(options, fn {key, _value} -> not Keyword.has_key?(schema, key) end) do
      nil -> :ok
      {key, _value} -> error(nil, "one of #{inspect(Keyword.keys(schema))}", key)
    end
  end

  defp collect(schema, options) do
    Enum.reduce_while(schema, {:ok, %{}}, fn {key, rules}, {:ok, result} ->
      case value(key, rules, options) do
        {:ok, value} -> {:cont, {:ok, Map.put(result, key, value)}}
        {:error, _} = error -> {:halt, error}
      end
    end)
  end

  defp value(key, rules, options) do
    {test, expected, _spec} = rules[:type]

    case Keyword.fetch(options, key) do
      {:ok, value} ->
        if test.(value), do: {:ok, value}, else: error(key, expected, value)

      :error ->
        if rules[:required],
          do: error(key, expected <> " (it is required)", nil),
          else: {:ok, rules[:default]}
    end
  end

  @doc "The error for one option."
  @spec error(atom() | nil, String.t(), term()) :: {:error, OptionsError.t()}
  def error(key, expected, value),
    do: {:error, %OptionsError{key: key, expected: expected, value: value}}

  @doc "The options as a Markdown list for a `@doc`."
  @spec docs(t()) :: String.t()
  def docs(schema) do
    Enum.map_join(schema, "\n", fn {key, rules} ->
      {_test, expected, _spec} = rules[:type]
      "  * `#{inspect(key)}` - #{rules[:doc]} Expects #{expected}#{default(rules)}.\n"
    end)
  end

  defp default(rules) do
    cond do
      rules[:required] -> "; required"
      rules[:default] == nil -> ""
      true -> "; default `#{inspect(rules[:default])}`"
    end
  end

  @doc "The quoted type of one option, for `@type option :: unquote(Schema.typespec(schema))`."
  @spec typespec(t()) :: Macro.t()
  def typespec(schema) do
    schema
    |> Enum.map(fn {key, rules} -> {key, elem(rules[:type], 2)} end)
    |> Enum.reverse()
    |> Enum.reduce(fn option, rest -> quote(do: unquote(option) | unquote(rest)) end)
  end

  @doc "A binary without NUL bytes, which no argument, path or variable can carry."
  @spec text() :: type()
  def text, do: {&text?/1, "a string without NUL bytes", quote(do: String.t())}

  @doc "Like `text/0`, or nil."
  @spec optional_text() :: type()
  def optional_text do
    {&(&1 == nil or text?(&1)), "a string without NUL bytes", quote(do: String.t() | nil)}
  end

  @doc false
  @spec text?(term()) :: boolean()
  def text?(value),
    do: is_binary(value) and value != "" and :binary.match(value, <<0>>) == :nomatch

  @doc "One of a few atoms."
  @spec one_of([atom()]) :: type()
  def one_of(atoms) do
    spec =
      Enum.reduce(Enum.reverse(atoms), fn atom, rest ->
        quote(do: unquote(atom) | unquote(rest))
      end)

    {&(&1 in atoms), Enum.map_join(atoms, " or ", &inspect/1), spec}
  end

  @doc "A number of milliseconds."
  @spec milliseconds() :: type()
  def milliseconds do
    {&(is_integer(&1) and &1 in 0..0x7FFFFFFF), "a non-negative number of milliseconds",
     quote(do: non_neg_integer())}
  end

  @doc "true or false."
  @spec boolean() :: type()
  def boolean, do: {&is_boolean/1, "true or false", quote(do: boolean())}

  @doc "What the test accepts."
  @spec custom((term() -> boolean()), String.t(), Macro.t()) :: type()
  def custom(test, expected, spec), do: {test, expected, spec}
end
