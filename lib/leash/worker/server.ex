defmodule Leash.Worker.Server do
  # The process of a worker. It carries out what `Leash.Worker.Machine` decides, in the same way
  # while it starts, runs and terminates.
  @moduledoc false

  use GenServer

  use Leash.ShortStatus, [
    :label,
    channel: [:number],
    machine: [:os_pid, :shim_pid, :phase, :ending, :failure, :result]
  ]

  alias Leash.{Callback, Cleanup, Exit, Guard, Native, Posix, Reaper, Registry, Run, Telemetry}
  alias Leash.Attachment.Attached
  alias Leash.Probe.{Health, Readiness}
  alias Leash.Registry.ExitHistory
  alias Leash.Stdio.Writer
  alias Leash.Worker.{Channel, Launch, Machine, Protocol, RestartDelay, Stdio}

  require Logger

  # A function of `:exit_reason` that takes longer is given up, because the supervisor waits.
  @exit_reason_ms 1_000

  @enforce_keys [:run, :label, :options, :machine, :channel]
  defstruct [
    :run,
    :label,
    :options,
    :machine,
    :channel,
    :attachment,
    :started_at,
    :parent,
    :supervisor,
    :traffic,
    :hunt,
    :timer,
    # Why the process exits, once that is known.
    :reason,
    :input,
    # The master of the worker's terminal, which the process of `input` owns.
    :terminal,
    # The options, environment included, in a function that no crash report shows the inside of.
    :again,
    # The last wait before a start, the number that it holds, and when the program was ready.
    :restart,
    :waiting,
    :up_since,
    # Whether this is a program that the process started again. Then it has callers meanwhile.
    again?: false,
    outputs: %{}
  ]

  @type t :: %__MODULE__{
          run: Run.t(),
          label: String.t(),
          options: map(),
          machine: Machine.t(),
          channel: Channel.t(),
          attachment: Attached.t() | nil,
          started_at: DateTime.t() | nil,
          parent: pid() | nil,
          supervisor: reference(),
          traffic: :counters.counters_ref() | nil,
          hunt: {pid(), reference()} | nil,
          timer: reference() | nil,
          reason: nil | :restart | {:reason, term()},
          restart: RestartDelay.t() | nil,
          waiting: pos_integer() | nil,
          up_since: integer() | nil,
          input: pid() | nil,
          again: (() -> map()) | nil,
          again?: boolean(),
          terminal: Native.fd() | nil,
          outputs: %{optional(pid()) => :stdout | :stderr}
        }

  @doc "Starts a worker linked to the caller, under a name or without one."
  @spec start_link(map()) :: GenServer.on_start()
  def start_link(options),
    do: GenServer.start_link(__MODULE__, with_callers(options), name(options))

  @doc "Starts the worker of `Leash.attach/2`, without a link. A failed start logs no crash."
  @spec start_attached(map()) :: {:ok, pid()} | {:error, term()}
  def start_attached(options) do
    with {:error, {:shutdown, reason}} <-
           GenServer.start(__MODULE__, with_callers(options), name(options)),
         do: {:error, reason}
  end

  defp name(%{name: nil}), do: []
  defp name(%{name: name}), do: [name: name]

  # The processes on whose behalf functions of the options are called.
  defp with_callers(options), do: Map.put(options, :callers, Callback.callers())

  ## Start

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)
    :ok = Callback.put_callers(options.callers)
    parent = parent()

    with {:error, reason} <- start(options, parent, nil) do
      {:stop, if(is_map_key(options, :attach), do: {:shutdown, reason}, else: reason)}
    end
  end

  # proc_lib records the process that called `start_link/1` as the first ancestor.
  defp parent do
    case Process.get(:"$ancestors") do
      [pid | _] when is_pid(pid) -> pid
      [name | _] when is_atom(name) -> Process.whereis(name)
      _none -> nil
    end
  end

  # `before` is this process's last program, and nil at the first start.
  defp start(options, parent, before) do
    {kind, owner} = kind(options, parent)

    with {:ok, options} <- watch_owner(options),
         {:ok, launched} <- Launch.run(options, kind, owner, before && before.waiting) do
      {events, channel} = Channel.new(launched)
      server = new(launched, channel, parent)

      %{
        server
        | again: fn -> options end,
          again?: before != nil,
          restart: before && before.restart
      }
      |> Stdio.open(launched.started.ends)
      |> count_outputs()
      |> steps(events)
      |> read()
      |> until(options.start_timeout, :start_timeout, &(&1.machine.os_pid != nil))
      |> started()
    end
  end

  defp watch_owner(%{attach: _} = options), do: Attached.watch(options)
  defp watch_owner(options), do: {:ok, options}

  defp kind(%{attach: %{owner: owner}}, _parent),
    do: {:attachment, if(is_pid(owner), do: owner)}

  defp kind(_options, parent), do: {:worker, parent}

  defp new(%{options: options} = launched, channel, parent) do
    %__MODULE__{
      run: launched.run,
      label: launched.label,
      # Without the environment, which may hold secrets.
      options: %{options | env: []},
      machine: %Machine{
        stop: options.stop,
        linger: options.linger,
        on_crash: options.on_crash,
        detach?: options.on_exit == :detach,
        ready?: options.ready == nil
      },
      channel: channel,
      attachment: options[:attach],
      started_at: DateTime.utc_now(),
      parent: parent,
      supervisor: Registry.monitor_owner(),
      traffic: if(guard = options[:guard], do: Guard.traffic(guard))
    }
  end

  defp count_outputs(server), do: step(server, {:outputs, map_size(server.outputs)})

  # The program was executed. It may have ended since then.
  defp started(%{machine: %{failure: nil, ending: nil, os_pid: pid} = machine} = server)
       when pid != nil do
    if machine.phase == :running and server.options.ready != nil,
      do: Readiness.start(server.options.ready, server.label, fn -> info(server) end)

    server
    |> until(server.options.ready_timeout, :ready_timeout, & &1.machine.ready?)
    |> ready()
  end

  defp started(server), do: failed(server)

  defp ready(%{machine: %{failure: nil, ending: nil, ready?: true} = machine} = server) do
    Telemetry.worker(:ready, server.channel.number)

    if machine.phase == :running and server.options[:health] != nil,
      do: Health.start(server.options.health, server.channel.number, server.label)

    {:ok, %{server | up_since: now()}, {:continue, :over}}
  end

  defp ready(server), do: failed(server)

  # At the first start, the process ends now.
  defp failed(server) do
    %{reason: {:reason, reason}} = answer_late(server)
    if server.again?, do: let_go(server)
    {:error, reason}
  end

  # Handles messages until the condition holds, or the tree is gone.
  #
  # If the time is over or the parent ends, the tree is ended first. GenServer's loop does not run
  # in `init/1` and `terminate/2`, so calls stay in the mailbox.
  defp until(server, :infinity, failure, condition),
    do: loop(server, :infinity, failure, condition)

  defp until(server, ms, failure, condition), do: loop(server, now() + ms, failure, condition)

  defp loop(%{machine: machine} = server, deadline, failure, condition) do
    cond do
      machine.phase == :done ->
        server

      machine.failure == nil and machine.ending == nil and condition.(server) ->
        server

      true ->
        # An end under way has bounds of its own.
        deadline = if machine.ending == nil, do: deadline, else: :infinity

        # At the first start the process has no callers, and at the end they are answered late.
        case Protocol.next(left(deadline), server.again? and server.reason == nil) do
          :timeout ->
            server |> step({:fail, failure}) |> loop(:infinity, failure, condition)

          # The end of the parent ends the worker for any reason, the end of another process if it
          # crashes.
          {:EXIT, pid, reason} = message ->
            server =
              if own_exit?(server, pid) or (reason == :normal and pid != server.parent),
                do: advance(server, message),
                else: step(server, {:fail, reason})

            loop(server, deadline, failure, condition)

          {:"$gen_call", from, call} ->
            server |> called(from, call) |> loop(deadline, failure, condition)

          message ->
            server |> advance(message) |> loop(deadline, failure, condition)
        end
    end
  end

  defp called(server, from, :info) do
    GenServer.reply(from, info(server))
    server
  end

  defp called(server, from, :await), do: step(server, {:await, from})
  defp called(server, from, {:stop, how}), do: step(server, {:stop, from, how})

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(0, deadline - now())

  defp now, do: System.monotonic_time(:millisecond)

  ## Run

  @impl true
  def handle_continue(:over, server), do: continue(server)

  # In the same process, so that name, pid and the supervisor's count of restarts stay.
  def handle_continue(:again, %{machine: %{restarters: callers, result: result}} = server) do
    :ok = let_go(server)

    case start(server.again.(), server.parent, server) do
      {:ok, server, continue} ->
        Enum.each(callers, &GenServer.reply(&1, result))
        {:noreply, server, continue}

      {:error, reason} ->
        Enum.each(callers, &GenServer.reply(&1, {:error, reason}))
        # A stop that comes meanwhile ends the process as any stop does.
        {:stop, if(reason == :stopping, do: :normal, else: reason), server}
    end
  end

  def handle_continue({:wait, reason}, server) do
    :ok = let_go(server)
    wait(server, reason)
  end

  def handle_continue(:start, server) do
    case start(server.again.(), server.parent, server) do
      {:ok, server, continue} -> {:noreply, server, continue}
      {:error, reason} -> again(%{server | waiting: nil, up_since: nil}, reason)
    end
  end

  # Nothing of the last program is this process's any more.
  defp let_go(server) do
    :ok = Reaper.release(server.channel.number)
    :ok = Channel.finish(server.channel)
    Process.demonitor(server.supervisor, [:flush])
    _ = server.input && Writer.finish(server.input)
    :ok
  end

  # A program that cannot be started again is one that failed.
  defp again(server, reason) do
    if again?(server, reason),
      do: wait(server, reason),
      else: {:stop, if(reason == :stopping, do: :normal, else: reason), server}
  end

  defp again?(%{parent: parent, options: options}, reason) do
    options[:restart_delay] != nil and RestartDelay.again?(reason) and
      (parent == nil or Process.alive?(parent))
  end

  # The wait has a number, so `Leash.list/1`, `Leash.stop_all/2` and the end of the application
  # reach it.
  defp wait(server, reason) do
    ran = if server.up_since, do: now() - server.up_since, else: 0
    restart = RestartDelay.next(server.restart, server.options.restart_delay, ran)
    options = server.again.()

    case Launch.register(options, :worker, server.parent, %{restart: restart}) do
      {:ok, number} ->
        Logger.warning(
          "Leash: #{server.label} failed (#{RestartDelay.shown(reason)}), and starts again in " <>
            "#{restart.delay} ms (attempt #{restart.attempt})"
        )

        timer = :erlang.start_timer(restart.delay, self(), :start)
        wait = %{waiting: number, restart: restart, timer: timer, input: nil, up_since: nil}
        {:noreply, struct(%{server | supervisor: Registry.monitor_owner()}, wait)}

      {:error, not_running} ->
        {:stop, not_running, server}
    end
  end

  @impl true
  def handle_call({:stop, _how}, _from, %{waiting: number} = server) when number != nil,
    do: {:stop, :normal, server.machine.result, server}

  def handle_call(:restart, from, %{waiting: number} = server) when number != nil do
    GenServer.reply(from, server.machine.result)
    {:noreply, act(:cancel_timer, server), {:continue, :start}}
  end

  def handle_call({:write, _data, _timeout}, _from, %{input: nil} = server),
    do: {:reply, {:error, Stdio.no_input(server.options)}, server}

  def handle_call({:write, data, timeout}, from, server) do
    Writer.write(server.input, data, timeout, from)
    {:noreply, server}
  end

  def handle_call(:close_stdin, _from, %{input: nil} = server) do
    case Stdio.no_input(server.options) do
      :epipe -> {:reply, :ok, server}
      reason -> {:reply, {:error, reason}, server}
    end
  end

  def handle_call(:close_stdin, from, server) do
    Writer.close(server.input, from)
    {:noreply, server}
  end

  def handle_call({:signal, number, to}, _from, server) do
    {answer, server} = signal(server, number, to)
    {:reply, answer, server}
  end

  def handle_call(:restart, _from, %{attachment: attachment} = server) when attachment != nil,
    do: {:reply, {:error, :no_options}, server}

  def handle_call(:restart, from, server), do: server |> step({:restart, from}) |> continue()

  def handle_call({:resize, rows, cols}, _from, server),
    do: {:reply, Stdio.resize(server, rows, cols), server}

  def handle_call(:reopen, from, server) do
    :ok = Stdio.reopen(server.outputs, server.options, from)
    {:noreply, server}
  end

  def handle_call(call, from, server), do: server |> called(from, call) |> continue()

  @impl true
  def handle_info({:EXIT, pid, reason} = message, server) do
    if own_exit?(server, pid) or reason == :normal,
      do: server |> advance(message) |> continue(),
      else: {:stop, reason, server}
  end

  def handle_info(message, %{waiting: number} = server) when number != nil,
    do: waiting(message, server)

  def handle_info(message, server), do: server |> advance(message) |> continue()

  defp waiting({:timeout, timer, :start}, %{timer: timer} = server),
    do: {:noreply, %{server | timer: nil}, {:continue, :start}}

  defp waiting({:leash, {:stop, from, _how}}, server) do
    GenServer.reply(from, server.machine.result)
    {:stop, :normal, server}
  end

  defp waiting({:DOWN, monitor, :process, _, _reason}, %{supervisor: monitor} = server),
    do: {:stop, {:shutdown, :leash_stopped}, server}

  defp waiting(_late, server), do: {:noreply, server}

  defp continue(%{waiting: number} = server) when number != nil, do: {:noreply, server}

  defp continue(%{machine: %{phase: :done}, reason: {:reason, reason}} = server) do
    cond do
      vm_stops?(server) -> {:noreply, server}
      again?(server, reason) -> {:noreply, server, {:continue, {:wait, reason}}}
      true -> {:stop, reason, server}
    end
  end

  defp continue(%{machine: %{phase: :done}, reason: :restart} = server),
    do: {:noreply, server, {:continue, :again}}

  defp continue(server), do: {:noreply, server}

  # Returns whether the whole VM stops in order, and with it the application.
  #
  # Then the supervisor of this process no longer belongs to an application, and ends in a moment.
  # If it got the exit of this process, it would restart what cannot start any more, or crash. A
  # script that ends so makes the VM's exit status 1.
  defp vm_stops?(%{machine: %{failure: :shutdown}}),
    do: match?({:stopping, _progress}, :init.get_status())

  defp vm_stops?(_server), do: false

  # After a shutdown or a crash, this process must not end before its tree.
  @impl true
  def terminate(_reason, %{machine: %{phase: :done}} = server), do: answer_late(server)

  def terminate(reason, server) do
    server = answer_late(%{server | reason: {:reason, reason}})

    event =
      if Machine.lasts?(server.machine),
        do: {:leave, reason},
        else: {:end, Machine.how(server.machine, reason)}

    server |> step(event) |> until(:infinity, reason, fn _ -> false end) |> answer_late()
  end

  # Answers the callers whose request is still in the mailbox.
  defp answer_late(server) do
    Enum.reduce(Protocol.pending(), server, &step(&2, &1))
  end

  ## Messages

  defp advance(%{channel: %{fd: fd}} = server, {:leash_fd, fd, :ready}), do: read(server)

  defp advance(%{channel: %{number: number}} = server, {:leash, {:shim_ended, number}}),
    do: step(server, :shim_ended)

  defp advance(server, {:output_ready, _pid}) do
    :ok = Stdio.limit(server.outputs)
    step(server, :ready)
  end

  defp advance(server, {:output_tail, lines}), do: step(server, {:stderr, lines})

  defp advance(%{outputs: outputs} = server, {:EXIT, pid, _reason}) when is_map_key(outputs, pid),
    do: step(%{server | outputs: Map.delete(outputs, pid)}, :output_ended)

  defp advance(%{input: input} = server, {:EXIT, input, _reason}), do: %{server | input: nil}

  defp advance(%{attachment: %{watch: watch}} = server, {:DOWN, watch, :process, _, reason}),
    do: step(server, {:owner_ended, Machine.how(server.machine, reason)})

  defp advance(server, {:leash, :owner_ended}), do: step(server, {:owner_ended, :ladder})
  defp advance(server, {:leash, {:stop, from, how}}), do: step(server, {:stop, from, how})

  defp advance(server, {:leash, {:forget, pid}}), do: step(server, {:forget, pid})

  defp advance(
         %{channel: %{number: number}} = server,
         {:leash, {:fail_unhealthy, number, reason}}
       ),
       do: step(server, {:fail_unhealthy, reason})

  defp advance(%{hunt: {_pid, monitor}} = server, {:DOWN, monitor, :process, _, reason}) do
    verdict = Cleanup.verdict(reason, if(descends?(server), do: server.channel.warden))
    steps(%{server | hunt: nil}, Channel.proven(server.channel, verdict))
  end

  # After this process, nothing would end this tree.
  defp advance(%{supervisor: monitor} = server, {:DOWN, monitor, :process, _, _reason}) do
    reason = {:shutdown, :leash_stopped}
    step(server, if(Machine.lasts?(server.machine), do: {:leave, reason}, else: {:fail, reason}))
  end

  defp advance(%{timer: timer} = server, {:timeout, timer, name}),
    do: step(%{server | timer: nil}, {:timeout, name})

  defp advance(server, _other), do: server

  defp own_exit?(server, pid), do: pid == server.input or is_map_key(server.outputs, pid)

  # An attached tree is not below its shim, and a tree that outlives its VM is spared.
  defp descends?(server), do: server.attachment == nil and not server.machine.detach?

  ## Steps of the machine

  defp read(server) do
    {events, channel} = Channel.read(server.channel)
    steps(%{server | channel: channel}, events)
  end

  defp steps(server, events), do: Enum.reduce(events, server, &step(&2, &1))

  defp step(server, event) do
    {machine, actions} = Machine.handle(event, server.machine)
    Enum.reduce(actions, %{server | machine: machine}, &act/2)
  end

  defp act({:timer, name, ms}, server),
    do: %{act(:cancel_timer, server) | timer: :erlang.start_timer(ms, self(), name)}

  defp act(:cancel_timer, server) do
    _ = server.timer && :erlang.cancel_timer(server.timer)
    %{server | timer: nil}
  end

  defp act(:hunt, server) do
    spec = Cleanup.of_workers(server.run, [server.channel.number])
    %{server | hunt: Cleanup.start(spec, server.channel.pidfd || :unknown)}
  end

  defp act(:await_exit, server) do
    ended = {:leash, {:shim_ended, server.channel.number}}
    %{server | channel: Channel.await_exit(server.channel, ended)}
  end

  defp act(:started, server) do
    :ok = Stdio.begin(server.outputs, server.machine.os_pid)
    Telemetry.worker(:start, server.channel.number)

    if guard = server.options[:guard],
      do: Guard.watch(server.channel.number, guard, server.traffic)

    server
  end

  defp act(:attached, server) do
    attachment = Attached.attached(server.attachment, server.run, server.channel.number)
    %{server | attachment: attachment}
  end

  defp act(:close_stdin, server) do
    if server.input, do: Writer.close(server.input, nil)
    server
  end

  defp act(:finish_outputs, server) do
    :ok = Stdio.finish(server.outputs)
    server
  end

  defp act(:leave_outputs, server) do
    :ok = Stdio.leave(server.outputs, server.options, server.label)
    server
  end

  defp act({:unproven, reason}, server) do
    Logger.error("Leash could not look for what worker #{server.label} left: #{inspect(reason)}")
    server
  end

  # Recorded before this process ends, because the next worker of its name may be asked for it.
  defp act(:over, server) do
    server = %{server | reason: server.reason || reason(server)}
    reason = with {:reason, reason} <- server.reason, do: reason
    name = server.options.name
    if name != nil, do: ExitHistory.put(name, server.machine.result, reason)
    server
  end

  defp act({:answer, from, result}, server) do
    GenServer.reply(from, result)
    server
  end

  defp act(action, server), do: %{server | channel: Channel.act(server.channel, action)}

  # The program is no longer there to get a signal. Its group may be.
  defp signal(%{machine: %{exited: exited}} = server, _number, :leader) when exited != nil,
    do: {{:error, :noproc}, server}

  defp signal(%{machine: %{phase: phase}} = server, number, to)
       when phase in [:running, :ending] do
    {answer, channel} = Channel.signal_tree(server.channel, number, to)
    {answer, %{server | channel: channel}}
  end

  # After the proof of the end, nothing is signalled.
  defp signal(server, _number, _to), do: {{:error, :noproc}, server}

  ## Information

  defp reason(%{machine: machine} = server) do
    case Machine.outcome(machine) do
      decided when decided == :restart or elem(decided, 0) == :reason ->
        decided

      {:exit, exit} ->
        {:reason, if(Machine.up?(machine), do: mapped(server, exit), else: {:exited, exit})}
    end
  end

  defp mapped(%{options: %{exit_reason: nil}}, exit), do: Exit.reason(exit)

  defp mapped(%{options: %{exit_reason: function}} = server, exit) do
    callback = Callback.new(:exit_reason, server.label, function)

    case Callback.run_within(callback, [exit], @exit_reason_ms) do
      {:ok, reason} ->
        reason

      {:error, failure} ->
        _logged = Callback.log(callback, failure)
        Exit.reason(exit)
    end
  end

  defp state(%{waiting: number}) when number != nil, do: :waiting
  defp state(%{machine: %{phase: :running, exited: nil}}), do: :running
  defp state(_server), do: :ending

  # The result of `Leash.Worker.info/1`.
  defp info(%{machine: machine} = server) do
    info = %{
      run_id: server.run.id,
      worker: server.channel.number,
      group: server.options.group,
      os_pid: machine.os_pid,
      shim_pid: machine.shim_pid,
      command: server.options.command,
      args: server.options.args,
      state: state(server),
      restart: server.restart,
      started_at: server.started_at,
      mark: with({:error, errno} <- machine.mark, do: {:error, Posix.name(errno)}),
      adopted?: false,
      cgroup: server.options[:cgroup]
    }

    info |> Attached.info(server.attachment) |> Stdio.info(server.terminal)
  end
end
