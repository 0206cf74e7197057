defmodule Leash.Ladder do
  @moduledoc """
  The steps that end a process tree: which signal, to whom, and how long to wait for it to work.

      stop: [sigterm: 2_000]
      stop: [sigint: 500, sigterm: 1_500]
      stop: [{:sigint, 500, to: :leader}, {:sigterm, 1_500}]

  Each step signals, then waits until the whole tree is gone or its milliseconds are over (`:infinity`
  waits for ever). SIGKILL to everything that is left always comes last and need not be named; `[]`
  means SIGKILL at once.

  `to:` says who gets the signal: `:leader` (the worker itself), `:group` (its process group, the
  default) or `:tree` (every descendant). With `:leader` and `:group`, descendants that live on when
  those addressed are gone (daemons, children in sessions of their own) get the step's signal as
  well, so that they too can end in order.
  """

  alias Leash.Signal

  # The shim's table has room for this many steps.
  @max_steps 8

  @typedoc "One step."
  @type step ::
          {Signal.t(), timeout()} | {Signal.t(), timeout(), to: :leader | :group | :tree}

  @type t :: [step()]

  # The shim adds this to its own steps for the SIGKILL passes, which take milliseconds unless a
  # process is stuck in the kernel.
  @kill_phase_ms 2_000

  @doc false
  @spec expected() :: String.t()
  def expected do
    "a list of at most #{@max_steps} steps {signal, milliseconds | :infinity} or " <>
      "{signal, milliseconds, to: :leader | :group | :tree}"
  end

  @doc false
  @spec valid?(term()) :: boolean()
  def valid?(steps) when is_list(steps) and length(steps) <= @max_steps,
    do: Enum.all?(steps, &valid_step?/1)

  def valid?(_other), do: false

  defp valid_step?({signal, ms}), do: valid_step?({signal, ms, to: :group})

  defp valid_step?({signal, ms, to: to}) when to in [:leader, :group, :tree],
    do: Signal.number(signal) != :error and valid_wait?(ms)

  defp valid_step?(_other), do: false

  defp valid_wait?(:infinity), do: true
  defp valid_wait?(ms), do: is_integer(ms) and ms in 0..0x7FFFFFFF

  @doc false
  # How long the ladder can take at most, SIGKILL passes not counted.
  @spec duration(t()) :: timeout()
  def duration(steps) do
    Enum.reduce(steps, 0, fn step, total ->
      case {elem(step, 1), total} do
        {:infinity, _} -> :infinity
        {_, :infinity} -> :infinity
        {ms, total} -> total + ms
      end
    end)
  end

  @doc false
  # What a supervisor has to grant a child that ends by this ladder.
  @spec shutdown(t()) :: timeout()
  def shutdown(steps) do
    case duration(steps) do
      :infinity -> :infinity
      ms -> ms + @kill_phase_ms
    end
  end

  @doc false
  # The value of the shim's `--stop` option.
  @spec to_option(t()) :: String.t()
  def to_option([]), do: "KILL:0"

  def to_option(steps) do
    Enum.map_join(steps, ",", fn
      {signal, ms} -> to_option_step(signal, ms, :group)
      {signal, ms, to: to} -> to_option_step(signal, ms, to)
    end)
  end

  defp to_option_step(signal, ms, to) do
    {:ok, number} = Signal.number(signal)
    "#{number}:#{if ms == :infinity, do: "inf", else: ms}@#{to}"
  end
end
