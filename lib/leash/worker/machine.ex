defmodule Leash.Worker.Machine do
  @moduledoc """
  The life of a process tree as a pure function: an event and the data give new data and actions.

  `Leash.Worker.Server` and `Leash.Command` carry out the actions. So the rules are the same for a
  worker that starts, runs or terminates, and for a command that its caller drives.

  | event | launching | running | ending | exiting | proving | draining | done |
  |---|---|---|---|---|---|---|---|
  | `{:report, {:started, _}}` | running | | | | | | |
  | `{:report, {:start_failed, :shim, _}}` | done | | | | | | |
  | `{:report, {:gone, _}}` | exiting¹ | exiting¹ | exiting¹ | | | | |
  | `:hung_up` | proving | proving | proving | await² | | | |
  | `{:end, how}`, `{:stop, from, how}`, `{:fail, reason}`, `{:owner_ended, how}` | ask | ending, ask | ask harder | | | | answer³ |
  | `{:restart, from}` | ask | ending, ask | | | | | answer³ |
  | `{:fail_unhealthy, reason}` | ask | ending, ask | | | | | |
  | `{:timeout, stage}` | harder | harder | harder, then proving | | | | |
  | `:shim_ended`, `{:timeout, :exit}` | | | | draining | | | |
  | `{:proof, verdict}` | | | | | draining | | |
  | `:output_ended` of the last one, `{:timeout, :drain}` | | | | | | done | |
  | `{:leave, reason}` | done | done | | | | | |

  An empty cell keeps the phase.

    1. Done, with `await_exit?: false`: the shim's last report is enough.
    2. The shim closes its channel in the middle of its exit. If it stays with what it kept, the
       phase becomes draining.
    3. Only `{:stop, from, how}` and `{:restart, from}` have a caller to answer. Until then its
       `from` is kept. `{:await, from}` waits in the same way, and asks for nothing.

  Each caller of `{:stop, from, how}` gets one answer, when the tree is gone or cannot be ended.
  `{:ok, exit}` is the answer only after a proof: the shim's last report, which is the kernel's
  word (`ECHILD`, waitpid(2)), or the verdict `:gone` of a hunt. After that no action signals.

  The callers of `{:restart, from}` are answered by the driver if the outcome is `:restart`. Any
  other reason for the end is stronger, and refuses them.
  """

  alias Leash.{Error, Exit, Ladder, Posix, Shim, StopCommand}
  alias Leash.Shim.Escalation

  # The longest time for the rest of a shim's exit on a busy machine.
  @exit_ms 1_000
  # How long the end waits for handlers to take what the pipes still hold. They go on alone.
  @drain_ms 1_000

  @enforce_keys [:stop, :linger, :on_crash]
  defstruct [
    :stop,
    :linger,
    :on_crash,
    detach?: false,
    await_exit?: true,
    phase: :launching,
    # Whether the program does its work, as far as `:ready` can report it.
    ready?: true,
    os_pid: nil,
    shim_pid: nil,
    mark: nil,
    # Why the start fails, or the process exits.
    failure: nil,
    # How the tree is being ended.
    ending: nil,
    requested?: false,
    stoppers: [],
    restarters: [],
    # At most one for each process: an older one has given up.
    awaiters: %{},
    exited: nil,
    # The results of the ladder's commands, by the index of their steps.
    commands: %{},
    # What the tree used, as fields of the exit.
    used: %{},
    result: nil,
    # The one timer that runs.
    timer: nil,
    # The last lines of stderr, if the VM reads it.
    stderr: [],
    # The number of pipe readers that have not reached the end.
    outputs: 0,
    # The latest first.
    actions: []
  ]

  @type phase :: :launching | :running | :ending | :exiting | :proving | :draining | :done

  @typedoc "The purpose of a timer: a stage of the escalation, the shim's exit, or the pipes."
  @type timer :: Escalation.stage() | :exit | :drain

  @type t :: %__MODULE__{
          stop: Ladder.t(),
          linger: timeout() | nil,
          on_crash: :ladder | :kill,
          detach?: boolean(),
          await_exit?: boolean(),
          phase: phase(),
          ready?: boolean(),
          os_pid: pos_integer() | nil,
          shim_pid: pos_integer() | nil,
          mark: :set | :off | :no_depth | {:error, pos_integer()} | nil,
          failure: term(),
          ending: nil | :ladder | :kill,
          requested?: boolean(),
          stoppers: [GenServer.from()],
          restarters: [GenServer.from()],
          awaiters: %{optional(pid()) => GenServer.from()},
          exited: nil | {:status, byte()} | {:signal, Leash.Signal.t()} | :unknown,
          commands: %{optional(byte()) => StopCommand.result()},
          used: %{optional(atom()) => term()},
          result: nil | {:ok, Exit.t()} | {:error, :noproc | map()},
          timer: timer() | nil,
          stderr: [String.t()],
          outputs: non_neg_integer(),
          actions: [action()]
        }

  @typedoc "The proof by a hunt for the tree's tags, see `Leash.Cleanup.verdict/2`."
  @type verdict :: :gone | {:left, [Leash.Worker.survivor()]} | {:unproven, term()}

  @type event ::
          {:report, Shim.report()}
          | :hung_up
          | :shim_ended
          | :ready
          | {:end, :ladder | :kill}
          | {:stop, GenServer.from(), :ladder | :kill}
          | {:restart, GenServer.from()}
          | {:await, GenServer.from()}
          | {:forget, pid()}
          | {:fail, reason :: term()}
          | {:fail_unhealthy, reason :: term()}
          | {:owner_ended, :ladder | :kill}
          | {:leave, reason :: term()}
          | {:timeout, timer()}
          | {:used, %{optional(atom()) => term()}}
          | {:proof, verdict()}
          | {:outputs, non_neg_integer()}
          | {:stderr, [String.t()]}
          | :output_ended

  @typedoc """
  The actions of a driver, in this order.

    * `{:row, changes}` - change the row in the table of workers
    * `{:ask, how}` - ask the shim over its channel for the ladder or for SIGKILL, and wake it
    * `{:signal, how}` - signal the shim itself
    * `:close` - close the channel
    * `{:timer, timer, ms}` - send `{:timeout, timer}` after that time, and no earlier timer's
      event
    * `:cancel_timer` - send none
    * `:hunt` - look for the tree's tags, then send `{:proof, verdict}`
    * `:await_exit` - send `:shim_ended` when the shim has ended, or at once if it has
    * `:started` - the program runs
    * `:attached` - the shim has taken over the program of `Leash.attach/2`
    * `:close_stdin` - a step of the ladder closes the program's stdin
    * `{:telemetry, event}` - tell `:telemetry`
    * `:finish_outputs` - have the readers take what the pipes hold, and wait for no more
    * `:leave_outputs` - log the handlers that have not taken everything
    * `{:unproven, reason}` - log that it is not known whether anything is left
    * `:over` - record the end, before any process hears of it
    * `{:answer, from, result}` - reply
  """
  @type action ::
          {:row, keyword()}
          | {:ask, :ladder | :kill}
          | {:signal, :kill | :sigkill}
          | :close
          | {:timer, timer(), non_neg_integer()}
          | :cancel_timer
          | :hunt
          | :await_exit
          | :started
          | :attached
          | :close_stdin
          | {:telemetry,
             {:step, Exit.cause(), term(), non_neg_integer()}
             | {:stop, Exit.t()}
             | {:survivors, [Leash.Worker.survivor()]}}
          | :finish_outputs
          | :leave_outputs
          | {:unproven, term()}
          | :over
          | {:answer, GenServer.from(), {:ok, Exit.t()} | {:error, term()}}

  @doc "Takes one event."
  @spec handle(event(), t()) :: {t(), [action()]}
  def handle(event, machine) do
    machine = event(event, machine)
    {%{machine | actions: []}, Enum.reverse(machine.actions)}
  end

  @doc "Returns the reason with which the process exits, or how the program ended."
  @spec outcome(t()) :: {:reason, term()} | {:exit, Exit.t()} | :restart
  def outcome(%{failure: failure}) when failure != nil, do: {:reason, failure}
  def outcome(%{requested?: true}), do: {:reason, :normal}
  def outcome(%{restarters: [_ | _]}), do: :restart
  def outcome(%{result: {:ok, exit}}), do: {:exit, exit}

  @doc "Returns whether the start is complete: the program runs and is ready, or was."
  @spec up?(t()) :: boolean()
  def up?(machine), do: machine.os_pid != nil and machine.ready?

  @doc "Returns whether the tree outlives its process, and nothing has asked for its end."
  @spec lasts?(t()) :: boolean()
  def lasts?(machine), do: machine.detach? and machine.phase == :running and machine.ending == nil

  @doc "Returns how hard a tree is ended for the exit reason of its owner or process."
  @spec how(t(), term()) :: :ladder | :kill
  def how(machine, reason), do: Escalation.how(reason, machine.on_crash)

  ## Events

  defp event({:report, _late}, %{phase: phase} = machine)
       when phase not in [:launching, :running, :ending],
       do: machine

  defp event({:report, report}, machine),
    do: report |> named(machine) |> report(machine)

  # A shim that hangs up without its last report was killed.
  defp event(:hung_up, %{phase: phase} = machine) when phase in [:launching, :running, :ending] do
    %{machine | phase: :proving, failure: machine.failure || :shim_died}
    |> act(:close)
    |> cancel_timer()
    |> act(:hunt)
  end

  # The shim stays with what it kept.
  defp event(:hung_up, %{phase: :exiting, result: {:ok, %Exit{cause: :kept}}} = machine),
    do: drain(machine)

  # After a stop, no shim must be left to be found.
  defp event(:hung_up, %{phase: :exiting} = machine),
    do: machine |> act(:close) |> act(:await_exit)

  defp event(:shim_ended, %{phase: :exiting} = machine), do: drain(machine)

  defp event(:ready, machine), do: %{machine | ready?: true}
  # What the process does then is decided.
  defp event({kind, _why}, %{phase: :done} = machine) when kind in [:fail, :owner_ended],
    do: machine

  # The process ends.
  defp event({:end, how}, machine), do: machine |> refuse_restart() |> begin(how)

  defp event({:stop, from, _how}, %{phase: :done} = machine),
    do: act(machine, {:answer, from, machine.result})

  defp event({:stop, from, how}, machine) do
    # The caller of the start gets this reason. An end under way keeps its own reason.
    begun? = up?(machine) or machine.ending != nil
    failure = if begun?, do: machine.failure, else: machine.failure || :stopping
    requested? = machine.phase == :running or machine.requested? or machine.restarters != []
    stoppers = [from | machine.stoppers]
    begin(%{machine | stoppers: stoppers, requested?: requested?, failure: failure}, how)
  end

  defp event({:restart, from}, %{phase: :done} = machine),
    do: act(machine, {:answer, from, {:error, :noproc}})

  defp event({:restart, from}, machine),
    do: begin(%{machine | restarters: [from | machine.restarters]}, :ladder)

  defp event({:await, from}, %{phase: :done} = machine),
    do: act(machine, {:answer, from, machine.result})

  defp event({:await, {pid, _tag} = from}, machine),
    do: %{machine | awaiters: Map.put(machine.awaiters, pid, from)}

  defp event({:forget, pid}, machine),
    do: %{machine | awaiters: Map.delete(machine.awaiters, pid)}

  defp event({:fail, reason}, machine),
    do: begin(%{machine | failure: machine.failure || reason}, how(machine, reason))

  # A tree that is ending keeps its own reason.
  defp event(
         {:fail_unhealthy, reason},
         %{phase: phase, ending: nil, failure: nil, exited: nil} = machine
       )
       when phase in [:launching, :running],
       do: begin(%{machine | failure: reason}, :ladder)

  defp event({:owner_ended, how}, machine), do: begin(%{machine | requested?: true}, how)

  defp event({:leave, reason}, %{phase: phase} = machine) when phase in [:launching, :running],
    do: over(%{act(machine, :close) | failure: reason, result: {:error, :noproc}})

  defp event({:timeout, timer}, %{timer: timer} = machine),
    do: timeout(timer, %{machine | timer: nil})

  defp event({:used, used}, machine), do: %{machine | used: used}
  defp event({:proof, verdict}, %{phase: :proving} = machine), do: proof(verdict, machine)
  defp event({:outputs, count}, machine), do: %{machine | outputs: count}
  defp event({:stderr, lines}, machine), do: %{machine | stderr: lines}

  defp event(:output_ended, machine), do: drained(%{machine | outputs: machine.outputs - 1})

  defp event(_late, machine), do: machine

  ## Reports

  # Commands of the ladder are numbers in a report.
  defp named(report, machine) do
    if Ladder.commands(machine.stop) == [],
      do: report,
      else: Shim.named(report, machine.stop, machine.commands)
  end

  defp report({:ready, %{mark: mark, shim: shim_pid}}, machine) do
    machine = report({:spawned, shim_pid}, %{machine | mark: mark})

    cond do
      machine.ending ->
        act(machine, {:row, tree: :ending})

      # Later its processes could not be found, or could not be told from those that a sweep ends.
      machine.detach? and mark != :set ->
        event({:fail, {:mark, with({:error, errno} <- mark, do: Posix.name(errno))}}, machine)

      true ->
        machine
    end
  end

  # Both the warden and the shim report it.
  defp report({:spawned, shim_pid}, %{shim_pid: shim_pid} = machine), do: machine

  defp report({:spawned, shim_pid}, machine),
    do: act(%{machine | shim_pid: shim_pid}, {:row, shim: shim_pid})

  defp report({:started, os_pid}, machine) do
    phase = if machine.phase == :launching, do: :running, else: machine.phase
    %{machine | os_pid: os_pid, phase: phase} |> act({:row, os_pid: os_pid}) |> act(:started)
  end

  defp report({:attached, os_pid, _marked, _unmarked}, machine),
    do: report({:started, os_pid}, act(machine, :attached))

  # No shim ever ran. Its arguments are the program's and some more.
  defp report({:start_failed, :shim, errno}, machine) do
    posix = Posix.name(errno)
    failure = machine.failure || {if(posix == :e2big, do: :exec, else: :shim), posix}

    %{machine | failure: failure, result: {:error, :noproc}}
    |> act(:close)
    |> act({:row, tree: :gone})
    |> over()
  end

  defp report({:start_failed, stage, errno}, machine),
    do: %{machine | failure: machine.failure || {stage, Posix.name(errno)}}

  # What the program left gets its linger, and then the ladder that the shim begins.
  defp report({:exited, how}, %{ending: nil, linger: linger} = machine) when is_integer(linger),
    do: stage(%{machine | exited: how}, :ladder, linger)

  defp report({:exited, how}, machine), do: %{machine | exited: how}

  defp report({:gone, %Exit{} = exit}, machine) do
    exit = struct(%{exit | os_pid: machine.os_pid}, machine.used)
    machine = %{machine | phase: :exiting, result: {:ok, exit}}

    if machine.await_exit?,
      do: timer(machine, :exit, @exit_ms),
      else: machine |> act(:close) |> announce() |> over()
  end

  defp report({:step, cause, step, elapsed}, machine) do
    machine = act(machine, {:telemetry, {:step, cause, step, elapsed}})
    if step == :close_stdin, do: act(machine, :close_stdin), else: machine
  end

  defp report({:command, index, result}, machine), do: put_in(machine.commands[index], result)
  defp report({:unknown, _frame}, machine), do: machine

  ## The end

  defp begin(%{phase: phase} = machine, _how) when phase not in [:launching, :running, :ending],
    do: machine

  # A ladder that has begun can only become SIGKILL at once.
  defp begin(%{ending: ending} = machine, how) when ending == :kill or ending == how, do: machine

  defp begin(machine, how) do
    phase = if machine.phase == :running, do: :ending, else: machine.phase
    # Before the first report, the row says that the tree is starting.
    seen? = machine.mark != nil
    machine = %{machine | ending: how, phase: phase}
    machine = if seen?, do: act(machine, {:row, tree: :ending}), else: machine
    machine |> act({:ask, how}) |> stage(how, 0)
  end

  defp stage(machine, stage, more) do
    case Escalation.bound(stage, Ladder.duration(machine.stop)) do
      :infinity -> cancel_timer(machine)
      ms -> timer(machine, stage, ms + more)
    end
  end

  defp timeout(:exit, machine), do: drain(machine)
  defp timeout(:drain, machine), do: machine |> act(:leave_outputs) |> over()

  defp timeout(stage, machine) do
    case Escalation.next(stage) do
      {:tell, :kill} -> begin(machine, :kill)
      {:tell, stage} -> machine |> act({:signal, stage}) |> stage(stage, 0)
      :look -> event(:hung_up, machine)
    end
  end

  defp proof(:gone, machine) do
    exit = struct(%Exit{cause: :shim_died, os_pid: machine.os_pid}, machine.used)

    exit =
      case machine.exited do
        {:status, status} -> %{exit | status: status}
        {:signal, signal} -> %{exit | signal: signal}
        :unknown -> exit
        nil -> %{exit | signal: :sigkill}
      end

    drain(%{machine | result: {:ok, exit}})
  end

  defp proof({:left, survivors} = _verdict, machine) do
    machine
    |> act({:telemetry, {:survivors, survivors}})
    |> unended(%Error{reason: :survivors, survivors: survivors}, {:survivors, survivors})
  end

  # The Reaper goes on trying, and keeps the number until it succeeds.
  defp proof({:unproven, reason}, machine) do
    machine
    |> act({:unproven, reason})
    |> unended(%Error{reason: {:unproven, reason}}, {:unproven, reason})
  end

  defp unended(machine, error, failure),
    do: drain(%{machine | result: {:error, error}, failure: failure})

  defp drain(machine) do
    %{announce(machine) | phase: :draining}
    |> act(:close)
    |> act(:finish_outputs)
    |> timer(:drain, @drain_ms)
    |> drained()
  end

  defp drained(%{phase: :draining, outputs: 0} = machine), do: over(machine)
  defp drained(machine), do: machine

  # Announces that nothing is left.
  defp announce(%{result: {:error, _survivors}} = machine), do: machine

  defp announce(%{result: {:ok, exit}} = machine) do
    # Telemetry first: it takes its metadata from the row as it is now.
    machine = if machine.os_pid, do: act(machine, {:telemetry, {:stop, exit}}), else: machine
    act(machine, {:row, tree: :gone})
  end

  defp over(machine) do
    machine = %{reported(machine) | phase: :done} |> cancel_timer() |> act(:over)
    machine = if outcome(machine) == :restart, do: machine, else: refuse_restart(machine)
    callers = machine.stoppers ++ Map.values(machine.awaiters)
    Enum.reduce(callers, machine, &act(&2, {:answer, &1, machine.result}))
  end

  defp refuse_restart(machine) do
    answer = with {:ok, _exit} <- machine.result || {:ok, nil}, do: {:error, :stopping}
    refused = Enum.reduce(machine.restarters, machine, &act(&2, {:answer, &1, answer}))
    %{refused | restarters: []}
  end

  defp reported(%{result: {:ok, exit}, stderr: [_ | _] = lines} = machine),
    do: %{machine | result: {:ok, %{exit | stderr: lines}}}

  defp reported(machine), do: machine

  ## Actions

  defp timer(machine, timer, ms), do: act(%{machine | timer: timer}, {:timer, timer, ms})

  defp cancel_timer(%{timer: nil} = machine), do: machine
  defp cancel_timer(machine), do: act(%{machine | timer: nil}, :cancel_timer)

  defp act(machine, action), do: %{machine | actions: [action | machine.actions]}
end
