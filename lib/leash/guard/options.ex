defmodule Leash.Guard.Options do
  # The options of `guard:` of a Worker, and their translation for the guard.
  @moduledoc false

  alias Leash.{Callback, Guard}

  @limits [:processes, :rss, :lifetime, :idle]

  @every_ms 1_000
  # A look costs a pass over `/proc`.
  @shortest_ms 100
  @longest_ms 0x7FFFFFFF

  @units %{
    "B" => 1,
    "KB" => 1_000,
    "MB" => 1_000_000,
    "GB" => 1_000_000_000,
    "TB" => 1_000_000_000_000,
    "KIB" => 1_024,
    "MIB" => 1_048_576,
    "GIB" => 1_073_741_824,
    "TIB" => 1_099_511_627_776
  }

  @milliseconds [type: {:in, 1..@longest_ms}, type_doc: "milliseconds > 0"]

  @keys [
    processes: [type: :pos_integer, doc: "The most processes."],
    rss: [
      type: {:custom, __MODULE__, :memory, []},
      type_doc: "bytes, or text such as \"512MB\", \"8GB\" or \"1GiB\"",
      type_spec: quote(do: pos_integer() | String.t()),
      doc: "The most memory."
    ],
    lifetime: @milliseconds ++ [doc: "The most time since the start."],
    idle:
      @milliseconds ++
        [doc: "The most time with no output seen by this process and no CPU time used."],
    action: [
      type: {:or, [{:in, [:stop, :log]}, {:fun, 1}]},
      type_doc: ":stop, :log or a function of one argument",
      type_spec: quote(do: :stop | :log | (map() -> term())),
      default: :stop,
      doc:
        "`:stop` ends the worker by its ladder, and this process exits with " <>
          "`{:guard, %{limit: limit, max: number, value: number}}`. `:log` writes a warning. " <>
          "A function is called with a map. Both act once until the value is within the limit " <>
          "again."
    ],
    every: [
      type: {:in, @shortest_ms..@longest_ms},
      type_doc: "milliseconds (at least #{@shortest_ms})",
      type_spec: quote(do: pos_integer()),
      default: @every_ms,
      doc: "The time between two looks."
    ]
  ]

  @doc "The option `:guard`."
  @spec option() :: keyword()
  def option do
    [
      type: {:or, [nil, keyword_list: @keys]},
      type_doc: "a keyword list with at least one of #{Enum.map_join(@limits, ", ", &inspect/1)}",
      doc: "Limits of the whole tree, checked again and again. See `guides/workers.md`."
    ]
  end

  @doc "Returns whether there is a limit, which the schema cannot say."
  @spec limited?(keyword()) :: boolean()
  def limited?(options), do: Enum.any?(@limits, &Keyword.has_key?(options, &1))

  @doc false
  @spec memory(term()) :: {:ok, pos_integer()} | {:error, String.t()}
  def memory(size) do
    case bytes(size) do
      {:ok, bytes} when bytes > 0 -> {:ok, bytes}
      _no_memory -> {:error, @keys[:rss][:type_doc]}
    end
  end

  @doc "Returns the bytes of a number or of text with a unit of 1000 (kB, MB …) or 1024 (KiB …)."
  @spec bytes(term()) :: {:ok, non_neg_integer()} | :error
  def bytes(number) when is_integer(number) and number >= 0, do: {:ok, number}

  def bytes(text) when is_binary(text) do
    with [_all, digits, unit] <- Regex.run(~r/\A(\d{1,15}) ?([KMGT]?i?B)\z/i, text),
         {:ok, factor} <- Map.fetch(@units, String.upcase(unit)) do
      {:ok, String.to_integer(digits) * factor}
    else
      _no_size -> :error
    end
  end

  def bytes(_other), do: :error

  @doc "Returns the guard of checked options. A function as action works for the calling Worker."
  @spec spec(keyword(), :counters.counters_ref() | nil) :: Guard.spec()
  def spec(options, traffic) do
    %{
      limits: options |> Keyword.take(@limits) |> Map.new(),
      every: options[:every],
      action: options[:action],
      traffic: traffic,
      callers: Callback.callers()
    }
  end
end
