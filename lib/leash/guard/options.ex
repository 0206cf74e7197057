defmodule Leash.Guard.Options do
  # The options of `guard:` of a Worker, and their translation for the guard.
  @moduledoc false

  alias Leash.{Callback, Guard, Schema}

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

  @doc false
  @spec expected() :: String.t()
  def expected do
    "a keyword list with at least one of processes: number, rss: bytes (or \"512MB\", " <>
      "\"8GB\", \"1GiB\"), lifetime: milliseconds, " <>
      "idle: milliseconds, and action: :stop, :log or a function of one argument, every: " <>
      "milliseconds (at least #{@shortest_ms}), " <>
      "each at most once"
  end

  @doc "Returns the quoted type."
  @spec typespec() :: Macro.t()
  def typespec do
    quote do
      [
        {:processes, pos_integer()}
        | {:rss, pos_integer() | String.t()}
        | {:lifetime, pos_integer()}
        | {:idle, pos_integer()}
        | {:action, :stop | :log | (map() -> term())}
        | {:every, pos_integer()}
      ]
      | nil
    end
  end

  @doc false
  @spec valid?(term()) :: boolean()
  def valid?(nil), do: true

  def valid?(options) do
    Schema.each_once?(options, &valid_option?/1) and
      Enum.any?(@limits, &Keyword.has_key?(options, &1))
  end

  defp valid_option?({:processes, number}), do: is_integer(number) and number > 0
  defp valid_option?({:rss, size}), do: match?({:ok, bytes} when bytes > 0, bytes(size))

  defp valid_option?({key, ms}) when key in [:lifetime, :idle],
    do: is_integer(ms) and ms in 1..@longest_ms

  defp valid_option?({:every, ms}), do: is_integer(ms) and ms in @shortest_ms..@longest_ms
  defp valid_option?({:action, action}), do: action in [:stop, :log] or is_function(action, 1)
  defp valid_option?(_other), do: false

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

  @doc "Returns the guard of valid options. A function as action works for the calling Worker."
  @spec spec(keyword(), :counters.counters_ref() | nil) :: Guard.spec()
  def spec(options, traffic) do
    limits =
      for {key, value} <- options, key in @limits, into: %{} do
        {:ok, number} = if key == :rss, do: bytes(value), else: {:ok, value}
        {key, number}
      end

    %{
      limits: limits,
      every: Keyword.get(options, :every, @every_ms),
      action: Keyword.get(options, :action, :stop),
      traffic: traffic,
      callers: Callback.callers()
    }
  end
end
