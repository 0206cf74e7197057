defmodule Leash.Schema do
  # One description per entry point validates, documents and types its options, so that the three
  # cannot drift apart.
  #
  # A schema has the form of NimbleOptions 1.1:
  #
  #   option => [type:, required:, default:, keys:, doc:, type_doc:, type_spec:]
  #
  # Names and meanings are the same, for the types that occur here:
  #
  #   :any, :boolean, :pid, :pos_integer, :non_neg_integer, {:fun, arity}, {:in, list or range},
  #   {:or, types} (if nil is one, it comes first), {:custom, module, function, args},
  #   :keyword_list with keys: (within {:or, _}: keyword_list: keys)
  #
  # NimbleOptions has no word for these:
  #
  #   * The text of what is expected, which `Leash.OptionsError` has as a field. It is what the
  #     function of a `{:custom, …}` returns in `{:error, text}`, else `:type_doc`, else the type
  #     in words.
  #   * The result is a map. An option that is not given and has no default is nil there. Nested
  #     options stay a keyword list, as in NimbleOptions.
  #   * If an option is given twice, the first one counts. Nested options may not be given twice.
  #   * A default is as good as its schema, and is not tested.
  #
  # A schema has no functions, but names them. So it is a literal and can be a module attribute,
  # where it costs a call nothing. Closures in attributes do not survive compilation on OTP 28.
  @moduledoc false

  alias Leash.{OptionsError, Suggestion}

  @milliseconds 0..0x7FFFFFFF

  @enforce_keys [:options, :types, :defaults, :required]
  defstruct @enforce_keys

  @type type :: atom() | tuple()
  @typep result :: {:ok, term()} | {:error, String.t()}
  @type options :: [{atom(), keyword()}]
  @type t :: %__MODULE__{
          options: options(),
          types: %{optional(atom()) => type() | (term() -> result())},
          defaults: %{optional(atom()) => term()},
          required: [atom()]
        }

  @doc "Returns the schema of these options."
  @spec new(options()) :: t()
  def new(options) do
    %__MODULE__{
      options: options,
      types: Map.new(options, fn {key, rules} -> {key, rules |> type() |> compiled()} end),
      defaults: Map.new(options, fn {key, rules} -> {key, rules[:default]} end),
      required: for({key, rules} <- options, rules[:required], do: key)
    }
  end

  defp type(rules) do
    case Keyword.fetch!(rules, :type) do
      :keyword_list -> {:keyword_list, Keyword.fetch!(rules, :keys)}
      type -> type
    end
  end

  # The types in the form in which a check is fast.
  defp compiled({:keyword_list, keys}), do: {:keyword_list, new(keys)}
  defp compiled({:or, [nil | types]}), do: {:or_nil, compiled({:or, types})}
  defp compiled({:or, [type]}), do: compiled(type)
  defp compiled({:or, types}), do: {:or, Enum.map(types, &compiled/1)}
  defp compiled({:in, first..last//1}), do: {:range, first, last}
  defp compiled({:custom, module, function, []}), do: Function.capture(module, function, 1)
  defp compiled(type), do: type

  @doc "Returns the names of the options."
  @spec keys(t()) :: [atom()]
  def keys(schema), do: Keyword.keys(schema.options)

  @doc "Checks options against a schema and returns them all, defaults filled in."
  @spec validate(t(), keyword() | map()) :: {:ok, map()} | {:error, OptionsError.t()}
  def validate(schema, options) when is_map(options), do: validate(schema, Map.to_list(options))

  def validate(schema, options) do
    if Keyword.keyword?(options) do
      case check(options, schema, %{}) do
        {:ok, given} -> {:ok, Map.merge(schema.defaults, given)}
        wrong -> wrong
      end
    else
      error(nil, "a keyword list or a map with atom keys", options)
    end
  end

  defp check([], %{required: []}, given), do: {:ok, given}

  defp check([], schema, given) do
    case Enum.find(schema.required, &(not is_map_key(given, &1))) do
      nil -> {:ok, given}
      key -> error(key, expected(schema, key) <> " (it is required)", nil)
    end
  end

  defp check([{key, _value} | options], schema, given) when is_map_key(given, key),
    do: check(options, schema, given)

  defp check([{key, value} | options], %{types: types} = schema, given) do
    case types do
      %{^key => type} ->
        case cast(type, value) do
          {:ok, value} -> check(options, schema, Map.put(given, key, value))
          wrong -> wrong(wrong, schema, key, value)
        end

      _unknown ->
        {:error, unknown(key, keys(schema))}
    end
  end

  defp wrong({:error, %OptionsError{} = nested}, _schema, key, _value),
    do: {:error, OptionsError.within(nested, key)}

  defp wrong({:error, expected}, _schema, key, value), do: error(key, expected, value)
  defp wrong(:error, schema, key, value), do: error(key, expected(schema, key), value)

  # Returns the value to use, or `:error` if the schema has the words for what is expected.
  defp cast(:any, value), do: {:ok, value}
  defp cast(:boolean, value) when is_boolean(value), do: {:ok, value}
  defp cast(:pid, value) when is_pid(value), do: {:ok, value}
  defp cast(:pos_integer, value) when is_integer(value) and value > 0, do: {:ok, value}
  defp cast(:non_neg_integer, value) when is_integer(value) and value >= 0, do: {:ok, value}
  defp cast({:fun, arity}, value) when is_function(value, arity), do: {:ok, value}
  defp cast({:in, choices}, value), do: if(value in choices, do: {:ok, value}, else: :error)
  defp cast({:or_nil, _type}, nil), do: {:ok, nil}
  defp cast({:or_nil, type}, value), do: cast(type, value)
  defp cast({:or, types}, value), do: first(types, value, :error)

  defp cast({:range, first, last}, value)
       when is_integer(value) and value >= first and value <= last,
       do: {:ok, value}

  defp cast({:custom, module, function, more}, value),
    do: apply(module, function, [value | more])

  defp cast({:keyword_list, schema}, value) do
    with true <- Keyword.keyword?(value),
         {:ok, given} <- check(value, schema, %{}),
         :ok <- once(value, given) do
      defaults = for {key, default} <- schema.defaults, default != nil, do: {key, default}
      options = for {key, _value} <- value, do: {key, Map.fetch!(given, key)}
      {:ok, Keyword.merge(defaults, options)}
    else
      false -> :error
      {:error, error} -> {:error, error}
    end
  end

  defp cast(custom, value) when is_function(custom), do: custom.(value)
  defp cast(_type, _value), do: :error

  # A mistake in nested options says more than the list of what else there may be.
  defp first([], _value, wrong), do: wrong

  defp first([type | types], value, wrong) do
    case cast(type, value) do
      {:ok, value} -> {:ok, value}
      {:error, %OptionsError{}} = nested -> first(types, value, nested)
      _wrong -> first(types, value, wrong)
    end
  end

  defp once(options, given) when length(options) == map_size(given), do: :ok

  defp once(options, _given) do
    [key | _] = Keyword.keys(options) -- Enum.uniq(Keyword.keys(options))
    error(key, "one value, and not several", Keyword.get_values(options, key))
  end

  defp unknown(key, known) do
    hint = Suggestion.option(key, known)
    %OptionsError{expected: "one of #{inspect(known)}", value: key, hint: hint}
  end

  @doc "Raises the error for what is none of the known options."
  @spec unknown!(term(), [atom()]) :: no_return()
  def unknown!(key, known), do: raise(unknown(key, known))

  @doc "Returns the error for one option."
  @spec error(atom() | nil, String.t(), term(), String.t() | nil) :: {:error, OptionsError.t()}
  def error(key, expected, value, hint \\ nil),
    do: {:error, wrong_value(key, expected, value, hint)}

  defp wrong_value(key, expected, value, hint) do
    hint = hint || Suggestion.value(key, value)
    %OptionsError{key: key, expected: expected, value: value, hint: hint}
  end

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
    do: raise(wrong_value(key, expected, value, nil))

  @doc "Returns the options as a Markdown list for a `@doc`, with nested options below theirs."
  @spec docs(t()) :: String.t()
  def docs(schema), do: docs(schema.options, "  ")

  defp docs(options, indent) do
    Enum.map_join(options, "\n", fn {key, rules} ->
      "#{indent}* `#{inspect(key)}` - #{doc(rules)}Expects #{expected(rules)}" <>
        "#{default(rules)}.\n#{rules |> type() |> nested(indent <> "  ")}"
    end)
  end

  defp doc(rules), do: if(rules[:doc], do: rules[:doc] <> " ", else: "")

  defp default(rules) do
    case rules[:default] do
      nil -> if rules[:required], do: "; required", else: ""
      value -> "; default `#{inspect(value)}`"
    end
  end

  defp nested({:keyword_list, keys}, indent), do: "\n" <> docs(keys, indent)
  defp nested({:or, types}, indent), do: Enum.map_join(types, &nested(&1, indent))
  defp nested(_type, _indent), do: ""

  defp expected(schema, key), do: expected(schema.options[key])
  defp expected(rules), do: rules[:type_doc] || rules |> type() |> words()

  defp words(:any), do: "any term"
  defp words(:boolean), do: "true or false"
  defp words(:pid), do: "a pid"
  defp words(:pos_integer), do: "a positive integer"
  defp words(:non_neg_integer), do: "a non-negative integer"
  defp words({:in, @milliseconds}), do: "a non-negative number of milliseconds"
  defp words({:in, first..last//1}), do: "an integer from #{first} to #{last}"
  defp words({:in, atoms}), do: Enum.map_join(atoms, " or ", &inspect/1)
  defp words({:fun, 1}), do: "a function of one argument"
  defp words({:fun, 2}), do: "a function of two arguments"
  defp words({:or, [nil | types]}), do: words({:or, types})
  defp words({:or, types}), do: Enum.map_join(types, " or ", &words/1)

  defp words({:keyword_list, keys}),
    do: "a keyword list of #{keys |> Keyword.keys() |> Enum.map_join(", ", &inspect/1)}"

  # A function of this module. Others have their words in `:type_doc`.
  defp words({:custom, __MODULE__, function, more}) do
    {:error, expected} = apply(__MODULE__, function, [{} | more])
    expected
  end

  @doc "Returns the quoted type of one option, for `@type option :: unquote(typespec(schema))`."
  @spec typespec(t()) :: Macro.t()
  def typespec(schema), do: typespec_of(schema.options)

  defp typespec_of(options) do
    union(for {key, rules} <- options, do: {key, rules[:type_spec] || rules |> type() |> spec()})
  end

  defp spec(:any), do: quote(do: term())
  defp spec(:boolean), do: quote(do: boolean())
  defp spec(:pid), do: quote(do: pid())
  defp spec(:pos_integer), do: quote(do: pos_integer())
  defp spec(:non_neg_integer), do: quote(do: non_neg_integer())
  defp spec({:in, @milliseconds}), do: quote(do: non_neg_integer())
  defp spec({:in, first..last//1}), do: quote(do: unquote(first)..unquote(last))
  defp spec({:in, atoms}), do: union(atoms)
  defp spec({:fun, 1}), do: quote(do: (term() -> term()))

  defp spec({:or, [nil | types]}), do: union([spec({:or, types}), nil])
  defp spec({:or, types}), do: types |> Enum.map(&spec/1) |> union()
  defp spec({:keyword_list, keys}), do: [typespec_of(keys)]
  defp spec({:custom, __MODULE__, :text, []}), do: quote(do: String.t())

  defp spec({:custom, __MODULE__, :target, [atoms]}),
    do: union(atoms ++ [quote(do: {:file, Path.t()})])

  defp union(specs) do
    specs
    |> Enum.reverse()
    |> Enum.reduce(fn spec, rest -> quote(do: unquote(spec) | unquote(rest)) end)
  end

  # Custom types

  @doc "A binary without NUL bytes: no argument, path or variable can carry them."
  @spec text(term()) :: {:ok, String.t()} | {:error, String.t()}
  def text(value),
    do: if(text?(value), do: {:ok, value}, else: {:error, "a string without NUL bytes"})

  @spec text?(term()) :: boolean()
  def text?(value),
    do: is_binary(value) and value != "" and :binary.match(value, <<0>>) == :nomatch

  @doc "The type of a number of milliseconds that a timer takes."
  @spec milliseconds() :: type()
  def milliseconds, do: {:in, @milliseconds}

  @spec milliseconds?(term()) :: boolean()
  def milliseconds?(value), do: is_integer(value) and value in @milliseconds

  @doc "The target of an output: one of a few atoms, or a file to append to."
  @spec target(term(), [atom()]) :: {:ok, atom() | {:file, String.t()}} | {:error, String.t()}
  def target(value, atoms) do
    if value in atoms or (match?({:file, _path}, value) and text?(elem(value, 1))),
      do: {:ok, value},
      else: {:error, Enum.map_join(atoms, ", ", &inspect/1) <> " or {:file, path}"}
  end
end
