defmodule Leash.Worker.RestartDelay do
  # `restart_delay:`: how long a worker waits before it starts its program again.
  #
  # The wait is in the worker's process. A delay between two exits of the process would not help:
  # 200, 400 and 800 ms make four restarts in 1.4 s, and a supervisor with the default intensity
  # gives up at the fourth within 5 s.
  @moduledoc false

  alias Leash.{Exit, Schema}

  @keys [
    min: [type: :pos_integer, default: 200, doc: "Milliseconds before the first start."],
    max: [type: :pos_integer, default: 30_000, doc: "The most milliseconds."],
    reset: [
      type: :pos_integer,
      default: 60_000,
      doc: "A program that ran for so many milliseconds begins with `:min` again."
    ]
  ]

  @type_doc "a keyword list of :min, :max (not less than :min) and :reset, in milliseconds"

  @typedoc "A wait that goes on, or led to the program that runs."
  @type t :: %{attempt: pos_integer(), delay: pos_integer(), next_at: DateTime.t()}

  @type options :: [min: pos_integer(), max: pos_integer(), reset: pos_integer()]

  @doc "The option `:restart_delay`."
  @spec option() :: keyword()
  def option do
    [
      type: {:or, [nil, keyword_list: @keys]},
      type_doc: @type_doc,
      doc:
        "If the program ends by itself with a reason other than `:normal` or a shutdown, or " <>
          "is not well, then this process starts it again after a time. The time begins at " <>
          "`:min` and doubles up to `:max`, less up to a quarter by chance. The supervisor " <>
          "sees no exit. The first start fails as without this option. See \"A program that " <>
          "keeps failing\"."
    ]
  end

  @doc "Checks what the types of the keys do not."
  @spec check(map(), map() | keyword()) :: :ok | {:error, Leash.OptionsError.t()}
  def check(%{restart_delay: delay}, given) do
    if delay[:min] <= delay[:max],
      do: :ok,
      else: Schema.error(:restart_delay, @type_doc, given[:restart_delay])
  end

  @doc """
  Returns the next wait after a program that ran for `ran` milliseconds.

  `chance` is 0 to 1, and takes up to a quarter of the time away.
  """
  @spec next(t() | nil, options(), non_neg_integer(), float()) :: t()
  def next(last, options, ran, chance \\ :rand.uniform()) do
    attempt = if last == nil or ran >= options[:reset], do: 1, else: last.attempt + 1
    # 2 ^ 31 ms are more than any :max.
    delay = min(options[:max], options[:min] * Integer.pow(2, min(attempt - 1, 31)))
    delay = max(1, delay - trunc(chance * delay / 4))

    %{
      attempt: attempt,
      delay: delay,
      next_at: DateTime.add(DateTime.utc_now(), delay, :millisecond)
    }
  end

  @doc """
  Returns whether the program is started again after this reason.

  The reasons of an end that was asked for, and of a tree of which something is left, are none.
  """
  @spec again?(term()) :: boolean()
  def again?(reason) when reason in [:normal, :shutdown, :stopping, :not_running, :killed],
    do: false

  def again?({reason, _why}) when reason in [:shutdown, :survivors, :unproven], do: false
  def again?(_reason), do: true

  @doc "Returns a reason as the log shows it."
  @spec shown(term()) :: String.t()
  def shown({:exited, %Exit{} = exit}), do: shown(Exit.reason(exit))
  def shown(reason), do: inspect(reason, limit: 10, printable_limit: 200)
end
