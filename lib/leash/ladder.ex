defmodule Leash.Ladder do
  @moduledoc """
  The steps that end a process tree: signals, their targets, and the time that each may take.

      stop: [sigterm: 2_000]
      stop: [sigint: 500, sigterm: 1_500]
      stop: [{:sigint, 500, to: :leader}, {:sigterm, 1_500}]
      stop: [{:cmd, ["docker", "rm", "-f", "x"], 5_000}, sigterm: 2_000]
      stop: [close_stdin: 2_000, sigterm: 2_000]

  Each step signals, runs its command or closes stdin. Then it waits until the whole tree is gone
  or its milliseconds are over (`:infinity` waits for ever). SIGKILL to everything that is left
  always comes last and need not be named. `[]` means SIGKILL at once.

  `to:` is the target of the signal: `:leader` (the worker itself), `:group` (its process group,
  the default) or `:tree` (every descendant). With `:leader` and `:group`, some descendants may
  live on when the targets are gone (daemons, children in sessions of their own). These get the
  step's signal as well, so that they too can end in order.

  `{:close_stdin, milliseconds}` closes the program's stdin.

  `{:cmd, [program | args], milliseconds}` runs a command, for a target that no signal reaches: a
  container, or a service that needs a call. The command has at most
  #{Leash.StopCommand.max_arguments()} strings. The worker's own shim runs it, so it also runs if
  the VM was killed. An end at once (`kill: true`, a crash with `on_crash: :kill`, a deadline)
  skips every step. So a command is a courtesy, and not a guarantee.

  `guides/ladders.md` says what each entry point makes of `:close_stdin`, in which surroundings a
  command runs, and what to do where no command runs.
  """

  alias Leash.{OptionsError, Signal, StopCommand}

  # The shim's table has room for this many steps.
  @max_steps 8

  @typedoc "A step that sends a signal."
  @type signal_step ::
          {Signal.t(), timeout()} | {Signal.t(), timeout(), to: :leader | :group | :tree}

  @typedoc "A step that runs a command."
  @type command_step :: {:cmd, [String.t(), ...], :infinity | pos_integer()}

  @typedoc "A step that closes stdin."
  @type stdin_step :: {:close_stdin, timeout()}

  @typedoc "One step."
  @type step :: signal_step() | command_step() | stdin_step()

  @type t :: [step()]

  @typedoc "A ladder of signals alone."
  @type signals :: [signal_step()]

  # The shim adds this to its own steps for the SIGKILL passes, which take milliseconds unless a
  # process is stuck in the kernel.
  @kill_phase_ms 2_000

  @default [sigterm: 2_000]
  # Precomputed, because most workers use it.
  @default_option "#{elem(Signal.number(:sigterm), 1)}:2000@group"

  @doc false
  # The ladder of a worker that gives no `:stop`.
  @spec default() :: signals()
  def default, do: @default

  @doc false
  # The option `:stop` of entry points: `:any` step where the shim runs the ladder, those
  # `:without_stdin` for programs whose stdin Leash does not control, `:signals` alone for callers
  # without a shim.
  @spec option(:any | :without_stdin | :signals) :: keyword()
  def option(kind \\ :any) do
    [
      type: {:custom, __MODULE__, :check, [kind]},
      type_doc: expected(kind),
      type_spec:
        if(kind == :signals,
          do: quote(do: Leash.Ladder.signals()),
          else: quote(do: Leash.Ladder.t())
        ),
      default: default(),
      doc: "The steps that end the tree, see `Leash.Ladder`; SIGKILL always comes last."
    ]
  end

  @doc false
  @spec check(term(), :any | :without_stdin | :signals) :: {:ok, t()} | {:error, String.t()}
  def check(steps, kind) do
    if allowed?(kind, steps),
      do: {:ok, steps},
      else: {:error, expected(kind) <> meant(steps)}
  end

  defp allowed?(:any, steps), do: valid?(steps)
  defp allowed?(:without_stdin, steps), do: valid?(steps) and not closes_stdin?(steps)
  defp allowed?(:signals, steps), do: signals?(steps)

  defp meant(steps) when is_list(steps) and length(steps) <= @max_steps do
    Enum.find_value(steps, "", fn step ->
      signal = if is_tuple(step) and tuple_size(step) > 0, do: elem(step, 0), else: step
      hint = Signal.number(signal) == :error && Signal.hint(signal)
      hint && ": #{inspect(signal)} is no signal, #{hint}"
    end)
  end

  defp meant(_steps), do: ""

  defp expected(:any) do
    "a list of at most #{@max_steps} steps {signal, milliseconds | :infinity}, " <>
      "{signal, milliseconds, to: :leader | :group | :tree}, {:cmd, [program | args], " <>
      "milliseconds > 0 | :infinity} " <>
      "or {:close_stdin, milliseconds | :infinity}"
  end

  defp expected(:without_stdin) do
    "a list of at most #{@max_steps} steps {signal, milliseconds | :infinity}, " <>
      "{signal, milliseconds, to: :leader | :group | :tree} or {:cmd, [program | args], " <>
      "milliseconds > 0 | :infinity} " <>
      "(its stdin is not ours to close: no {:close_stdin, _})"
  end

  defp expected(:signals) do
    "a list of at most #{@max_steps} steps {signal, milliseconds | :infinity} " <>
      "(a command, {:cmd, _, _}, is run by a worker's own shim only, which {:close_stdin, " <>
      "_} needs as well)"
  end

  @doc false
  @spec signals?(term()) :: boolean()
  def signals?(steps), do: allowed?(:without_stdin, steps) and commands(steps) == []

  @doc false
  @spec closes_stdin?(t()) :: boolean()
  def closes_stdin?(steps), do: Enum.any?(steps, &match?({:close_stdin, _ms}, &1))

  @doc false
  @spec valid?(term()) :: boolean()
  def valid?(steps) when is_list(steps) and length(steps) <= @max_steps,
    do: Enum.all?(steps, &valid_step?/1)

  def valid?(_other), do: false

  defp valid_step?({:cmd, command, ms}),
    do: StopCommand.valid?(command) and ms != 0 and valid_wait?(ms)

  defp valid_step?({:close_stdin, ms}), do: valid_wait?(ms)

  defp valid_step?({signal, ms}), do: valid_step?({signal, ms, to: :group})

  defp valid_step?({signal, ms, to: to}) when to in [:leader, :group, :tree],
    do: Signal.number(signal) != :error and valid_wait?(ms)

  defp valid_step?(_other), do: false

  defp valid_wait?(:infinity), do: true
  defp valid_wait?(ms), do: is_integer(ms) and ms in 0..0x7FFFFFFF

  @doc false
  # The longest time that the ladder can take, without the SIGKILL passes.
  @spec duration(t()) :: timeout()
  def duration(steps) do
    Enum.reduce(steps, 0, fn step, total ->
      case {wait(step), total} do
        {:infinity, _} -> :infinity
        {_, :infinity} -> :infinity
        {ms, total} -> total + ms
      end
    end)
  end

  defp wait({:cmd, _command, ms}), do: ms
  defp wait(step), do: elem(step, 1)

  @doc false
  # The ladder with the paths of its commands' programs.
  @spec resolve(t(), String.t() | nil) :: {:ok, t()} | {:error, OptionsError.t()}
  def resolve(steps, directory) do
    if commands(steps) == [], do: {:ok, steps}, else: resolve(steps, directory, [])
  end

  defp resolve([], _directory, done), do: {:ok, Enum.reverse(done)}

  defp resolve([{:cmd, command, ms} | steps], directory, done) do
    with {:ok, command} <- StopCommand.resolve(command, directory),
         do: resolve(steps, directory, [{:cmd, command, ms} | done])
  end

  defp resolve([step | steps], directory, done), do: resolve(steps, directory, [step | done])

  @doc false
  @spec commands(t()) :: [StopCommand.t()]
  def commands(steps), do: for({:cmd, command, _ms} <- steps, do: command)

  @doc false
  # The command of the step at an index; the shim counts from 0.
  @spec command(t(), non_neg_integer()) :: StopCommand.t() | nil
  def command(steps, index) do
    case Enum.at(steps, index) do
      {:cmd, command, _ms} -> command
      _signal -> nil
    end
  end

  @doc false
  # The time that a supervisor must grant a child that ends by this ladder.
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
  def to_option(@default), do: @default_option

  def to_option(steps) do
    Enum.map_join(steps, ",", fn
      {:cmd, _command, ms} -> "CMD:#{milliseconds(ms)}"
      {:close_stdin, ms} -> "STDIN:#{milliseconds(ms)}"
      {signal, ms} -> to_option_step(signal, ms, :group)
      {signal, ms, to: to} -> to_option_step(signal, ms, to)
    end)
  end

  defp to_option_step(signal, ms, to) do
    {:ok, number} = Signal.number(signal)
    "#{number}:#{milliseconds(ms)}@#{to}"
  end

  defp milliseconds(:infinity), do: "inf"
  defp milliseconds(ms), do: "#{ms}"
end
