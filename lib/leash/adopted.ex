defmodule Leash.Adopted do
  # A tree that a Worker left running on purpose. A later run, or a later process of the same run,
  # takes it over.
  #
  # The process answers what a `Leash.Worker` answers, and ends the tree only on request. If the
  # process ends for any other reason, the tree goes on and can be adopted again.
  #
  # There is no channel, so nothing reports how the program ended. The pidfd reports the end of
  # the shim. That end proves that nothing is left only if the shim ended by itself, which cannot
  # be seen from outside. So the tags are looked for each time.
  #   running ──asked──▶ ending ──shim's pidfd──▶ hunting ──none left──▶ done
  #      └───────────shim's pidfd────────────────────▲
  @moduledoc false

  use GenServer
  use Leash.ShortStatus, [:number, :group, :phase, :ending]

  alias Leash.{
    Cleanup,
    Detached,
    Error,
    Exit,
    Native,
    Reaper,
    Registry,
    Run,
    Schema,
    Telemetry
  }

  alias Leash.Shim.Handle
  alias Leash.Adopted.Program
  alias Leash.Shim.Escalation
  alias Leash.Worker.Options

  @doc """
  Starts a worker by `start`, or takes over the one that an earlier start of this name left
  running.
  """
  @spec start_or_adopt(map(), (() -> GenServer.on_start())) :: GenServer.on_start()
  def start_or_adopt(%{name: name} = options, start) do
    with {:ok, tree} <- Detached.find(Detached.text(name)),
         {:error, :not_found} <- start_link(tree, options.group, name: name) do
      start.()
    else
      {:error, :not_found} -> start.()
      started_or_refused -> started_or_refused
    end
  end

  @schema Schema.new(group: Leash.Group.option("The group that `Leash.stop_all/2` ends it with."))

  @spec schema() :: Schema.t()
  def schema, do: @schema

  @doc "`Leash.Worker.adopt/2`."
  @spec adopt(GenServer.name() | String.t(), keyword()) :: {:ok, pid()} | {:error, term()}
  def adopt(name, options) do
    text = text!(name)
    %{group: group} = Schema.unwrap!(Schema.validate(@schema, options))
    with {:ok, tree} <- Detached.find(text), do: start(tree, group)
  end

  defp text!(name) do
    text = Detached.text(name)

    if (is_binary(name) or (name != nil and Options.name?(name))) and Detached.text?(text),
      do: text,
      else: Schema.refuse!(:name, "a name as GenServer accepts it, or its text (200 bytes)", name)
  end

  defp start(tree, group) do
    ref = make_ref()
    __MODULE__ |> GenServer.start({tree, group, {self(), ref}}) |> answered(ref)
  end

  defp start_link(tree, group, registration) do
    ref = make_ref()

    __MODULE__
    |> GenServer.start_link({tree, group, {self(), ref}}, registration)
    |> answered(ref)
  end

  # If the tree ended just before the takeover, the caller must not end, as the exit of a linked
  # process would make it. A refused start exits with :normal and sends the reason in a message.
  defp answered(:ignore, ref) do
    receive do
      {^ref, reason} -> {:error, reason}
    end
  end

  defp answered(started, _ref), do: started

  @impl true
  def init({tree, group, {caller, ref}}) do
    Process.flag(:trap_exit, true)

    with {:ok, run} <- Run.fetch(),
         {:ok, fd} <- open(tree),
         {:ok, number} <- Reaper.adopt(description(tree, group)),
         :ok <- Native.pidfd_monitor(fd, :shim_ended) do
      {:ok, state(run, tree, number, group, fd)}
    else
      {:error, reason} ->
        send(caller, {ref, reason})
        :ignore
    end
  end

  defp state(run, tree, number, group, fd) do
    %{
      run: run,
      tree: tree,
      number: number,
      group: group,
      fd: fd,
      program: Program.watch(tree),
      program_ended?: tree.os_pid == nil,
      started_at: DateTime.add(DateTime.utc_now(), -tree.age_ms, :millisecond),
      phase: :running,
      # How the tree is being ended (nil, :ladder or :kill), and since when.
      ending: nil,
      began: nil,
      stoppers: [],
      awaiters: %{},
      hunt: nil,
      result: nil,
      supervisor: Registry.monitor_owner()
    }
  end

  defp open(tree) do
    case Detached.open(tree) do
      {:error, gone} when gone in [:esrch, :reused] -> {:error, :not_found}
      other -> other
    end
  end

  defp description(tree, group) do
    %{
      kind: :adopted,
      label: tree.name,
      # Only this process climbs the ladder. It asks the shim to use the shim's own.
      stop: [],
      group: group,
      outlives: tree
    }
  end

  @impl true
  def handle_call(:info, _from, state) do
    [command | args] = state.tree.command

    info = %{
      run_id: state.tree.run_id,
      worker: state.tree.worker,
      group: state.group,
      os_pid: state.tree.os_pid,
      shim_pid: state.tree.shim_pid,
      command: command,
      args: args,
      restart: nil,
      state:
        if(state.phase == :running and not state.program_ended?, do: :running, else: :ending),
      started_at: state.started_at,
      mark: :set,
      adopted?: true,
      cgroup: nil
    }

    {:reply, info, state}
  end

  def handle_call({:stop, how}, from, state), do: state |> stop(from, how) |> continue()

  def handle_call(:await, {pid, _tag} = from, state),
    do: {:noreply, put_in(state.awaiters[pid], from)}

  def handle_call({:signal, number, to}, _from, state),
    do: {:reply, signal(state, number, to), state}

  # The options of its start belong to the VM that started it.
  def handle_call(:restart, _from, state), do: {:reply, {:error, :no_options}, state}

  def handle_call(:reopen, _from, state), do: {:reply, {:error, :not_reopenable}, state}

  # The stdin is empty, as that of every worker that outlives its VM.
  def handle_call(_write_or_close, _from, state), do: {:reply, {:error, :not_piped}, state}

  # There is no channel on which the shim could be asked for more.
  defp signal(_state, _number, to) when to != :leader, do: {:error, :adopted}
  defp signal(%{program: nil}, _number, _to), do: {:error, :noproc}

  defp signal(state, number, _to) do
    with {:error, reason} when reason in [:esrch, :closed] <-
           Native.pidfd_signal(state.program, number),
         do: {:error, :noproc}
  end

  @impl true
  def handle_info({:EXIT, _pid, :normal}, state), do: {:noreply, state}
  def handle_info({:EXIT, _pid, reason}, state), do: {:stop, reason, state}
  def handle_info(message, state), do: state |> advance(message) |> continue()

  defp continue(%{phase: :done} = state), do: {:stop, reason(state.result), state}
  defp continue(%{phase: :left} = state), do: {:stop, {:shutdown, :leash_stopped}, state}
  defp continue(state), do: {:noreply, state}

  defp reason({:ok, exit}), do: Exit.reason(exit)
  defp reason({:error, %{survivors: list}}), do: {:survivors, list}

  # An ending that was requested is completed. Otherwise the tree goes on.
  @impl true
  def terminate(_reason, state) do
    state = state |> pending_stops() |> await()
    if state.result, do: answer(state)
    _ = state.program && Native.fd_close(state.program)
    Native.fd_close(state.fd)
  end

  defp pending_stops(state) do
    receive do
      {:"$gen_call", from, {:stop, how}} -> state |> stop(from, how) |> pending_stops()
      {:leash, {:stop, from, how}} -> state |> stop(from, how) |> pending_stops()
    after
      0 -> state
    end
  end

  defp await(%{phase: phase} = state) when phase in [:ending, :hunting] do
    receive do
      {:"$gen_call", from, {:stop, how}} -> state |> stop(from, how) |> await()
      :shim_ended = message -> state |> advance(message) |> await()
      {:stuck, _how} = message -> state |> advance(message) |> await()
      {:DOWN, _, _, _, _} = message -> state |> advance(message) |> await()
      {:leash, _} = message -> state |> advance(message) |> await()
    end
  end

  defp await(state), do: state

  ## One message, one step

  defp advance(state, {:leash, {:stop, from, how}}), do: stop(state, from, how)
  defp advance(%{phase: phase} = state, :shim_ended) when phase != :hunting, do: hunt(state)
  defp advance(state, {:stuck, how}), do: stuck(state, how)

  defp advance(state, {:leash, {:forget, pid}}),
    do: %{state | awaiters: Map.delete(state.awaiters, pid)}

  defp advance(%{phase: :running} = state, :program_ended) do
    watch_for(Program.bound(state.tree), :ladder)
    %{state | program_ended?: true}
  end

  defp advance(%{hunt: {_pid, monitor}} = state, {:DOWN, monitor, :process, _, reason}),
    do: hunted(%{state | hunt: nil}, reason)

  # The application has stopped.
  defp advance(
         %{phase: :running, supervisor: monitor} = state,
         {:DOWN, monitor, :process, _, _reason}
       ),
       do: %{state | phase: :left}

  defp advance(state, _other), do: state

  defp stop(state, from, how), do: begin_end(%{state | stoppers: [from | state.stoppers]}, how)

  defp begin_end(%{phase: phase} = state, _how) when phase in [:hunting, :done], do: state
  defp begin_end(%{ending: :kill} = state, _how), do: state
  defp begin_end(%{ending: same} = state, same), do: state

  defp begin_end(state, how) do
    Registry.change(state.number, tree: :ending)
    _ = Handle.tell(state.number, state.fd, how)
    watch(state, how)
    %{state | phase: :ending, ending: how, began: state.began || now()}
  end

  # If the shim does not say how long its ladder is, there is no bound.
  defp watch(state, stage) do
    watch_for(Escalation.bound(stage, state.tree.patience_ms || :infinity), stage)
  end

  defp watch_for(:infinity, _stage), do: :ok

  defp watch_for(ms, stage) do
    _timer = Process.send_after(self(), {:stuck, stage}, ms)
    :ok
  end

  defp stuck(%{phase: phase} = state, _stage) when phase not in [:running, :ending], do: state
  # A timer of a ladder that QUIT has overtaken.
  defp stuck(%{ending: :kill} = state, :ladder), do: state
  defp stuck(state, stage), do: climb(state, Escalation.next(stage))

  defp climb(state, {:tell, :kill}), do: begin_end(state, :kill)

  defp climb(state, {:tell, stage}) do
    _ = Handle.signal(state.fd, stage)
    watch(state, stage)
    state
  end

  defp climb(state, :look), do: hunt(state)

  defp hunt(state),
    do: %{state | phase: :hunting, hunt: Cleanup.start(Cleanup.of_tree(state.run, state.tree))}

  defp hunted(state, {:shutdown, {:ok, %{survivors: [], complete: true}}}) do
    exit = %Exit{
      cause: cause(state.ending),
      os_pid: state.tree.os_pid,
      duration: if(state.began, do: now() - state.began, else: 0)
    }

    Telemetry.worker_stop(state.number, exit)
    Registry.change(state.number, tree: :gone)
    done(state, {:ok, exit})
  end

  defp hunted(state, {:shutdown, {:ok, %{survivors: survivors}}}),
    do: done(state, {:error, %Error{reason: :survivors, survivors: survivors}})

  defp hunted(state, _failed), do: done(state, {:error, %Error{reason: :survivors}})

  defp cause(nil), do: :unseen
  defp cause(:ladder), do: :stop
  defp cause(:kill), do: :kill

  defp done(state, result), do: %{state | phase: :done, result: result}

  defp answer(state) do
    callers = state.stoppers ++ Map.values(state.awaiters)
    Enum.each(callers, &GenServer.reply(&1, state.result))
    answer_late(state.result)
  end

  # Answers the calls that arrived after the end.
  defp answer_late(result) do
    receive do
      {:"$gen_call", from, {:stop, _how}} -> GenServer.reply(from, result)
      {:leash, {:stop, from, _how}} -> GenServer.reply(from, result)
    after
      0 -> :ok
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
