defmodule Leash.OpenPort.PortWatcher do
  # Watches one port of `Leash.open_port/3` and its shim, as a Worker does its own. A request to
  # stop the tree (`Leash.stop_all/2`) has the same effect as a closed port.
  #
  # It watches the port and not its owner, because `Port.connect/2` changes owners. The reason of
  # the port's end is that of the owner's end, or `:normal` for a close.
  #
  # The monitor fires at once, even if the port's queue is full. Then the port keeps its pipe
  # open, the shim sees no hang-up, and only this process notifies it.
  #
  #   register ──▶ port known ──▶ shim held ──port :DOWN, or asked──▶ shim told ──▶ exit (1)
  #                    │              └──── shim ended ────────────────────────────▶ exit (2)
  #                    └ port :DOWN: the shim is looked up now
  #
  #   (1) the Reaper sees to the rest   (2) the Reaper looks for orphans
  #
  # After any end of this process, the Reaper ends the tree.
  @moduledoc false

  alias Leash.{Native, Reaper, Registry, Run, Telemetry}
  alias Leash.Shim.Handle
  alias Leash.Shim.Escalation

  # The fork server has executed the shim by then.
  @first_look_ms Handle.after_ms()
  # The longest pause between two looks for the shim while the port is open.
  @seldom_ms 1_000
  # The pauses after the port has closed, from the first to the longest.
  @looks_ms 1..50
  # How long the shim of a closed port is looked for. Afterwards its tags are looked for.
  @unseen_ms 1_000

  @doc """
  Starts a watcher for the calling process, and takes a number for the tree.

  The watcher waits for `watch/4` or `dismiss/1`. The end of the caller ends it.
  """
  @spec start(Run.t(), map()) ::
          {:ok, pid(), pos_integer()} | {:error, :not_running | :stopping | :too_many_workers}
  def start(run, options) do
    caller = self()

    description =
      options
      |> Map.take([:label, :stop, :group, :on_crash])
      |> Map.merge(%{
        kind: :port,
        owner: caller,
        mark?: options.mark,
        cgroup: if(options.cgroup, do: :ends)
      })

    # Not linked: the watcher must outlive its caller until it has notified the shim.
    {keeper, monitor} = spawn_monitor(fn -> init(caller, run, description) end)
    send(keeper, {:begin, monitor})

    receive do
      {^monitor, {:ok, number}} ->
        Process.demonitor(monitor, [:flush])
        {:ok, keeper, number}

      {:DOWN, ^monitor, :process, _pid, {:shutdown, {:error, reason}}} ->
        {:error, reason}

      {:DOWN, ^monitor, :process, _pid, _killed} ->
        {:error, :not_running}
    end
  end

  @doc "Hands over the port and its pid, which is nil if the port was closed before the look."
  @spec watch(pid(), pos_integer(), port(), pos_integer() | nil) :: :ok
  def watch(keeper, number, port, os_pid) do
    # Changed here, so that the caller finds its port in the list from now on.
    Registry.change(number, shim: os_pid)
    Telemetry.worker(:start, number)
    send(keeper, {:watch, port, os_pid})
    :ok
  end

  @doc "Ends the watcher of a port that was not opened. The number is free already."
  @spec dismiss(pid()) :: :ok
  def dismiss(keeper) do
    send(keeper, :dismiss)
    :ok
  end

  defp init(caller, run, description) do
    caller_monitor = Process.monitor(caller)

    receive do
      {:begin, ref} -> begin(caller, ref, run, description, caller_monitor)
      {:DOWN, ^caller_monitor, :process, _pid, _reason} -> :ok
    end
  end

  defp begin(caller, ref, run, description, caller_monitor) do
    case Reaper.register(description) do
      {:ok, number} ->
        send(caller, {ref, {:ok, number}})

        await_port(%{
          run_id: run.id,
          number: number,
          on_crash: description.on_crash,
          caller: caller_monitor,
          fd: nil
        })

      error ->
        exit({:shutdown, error})
    end
  end

  defp await_port(%{caller: caller} = state) do
    receive do
      {:watch, port, os_pid} ->
        state
        |> Map.merge(%{
          os_pid: os_pid,
          port: Port.monitor(port),
          leash: Registry.monitor_owner()
        })
        |> keep(@first_look_ms)

      :dismiss ->
        :ok

      # The caller ended between Port.open/2 and watch/4. The port ended with it, its queue empty,
      # so the shim has seen the hang-up.
      {:DOWN, ^caller, :process, _pid, reason} ->
        leave(how(state, reason))
    end
  end

  defp keep(%{port: port, leash: leash, caller: caller} = state, wait) do
    receive do
      {:DOWN, ^port, _type, _port, :noproc} ->
        closed(state, how(state, caller_reason(caller)))

      # OTP 25 sends :process for a port if the reason of its owner's end is more than an atom.
      {:DOWN, ^port, _type, _port, reason} ->
        closed(state, how(state, reason))

      {:leash, :shim_ended} ->
        exit({:shutdown, :shim_ended})

      {:leash, {:stop, _from, how}} ->
        closed(state, how)

      # The Reaper ended every tree before it went.
      {:DOWN, ^leash, :process, _pid, _reason} ->
        exit(:shutdown)

      {:DOWN, ^caller, :process, _pid, reason} ->
        keep(%{state | caller: {:ended, reason}}, wait)

      _stray ->
        keep(state, wait)
    after
      wait -> look(state, wait)
    end
  end

  defp how(state, reason), do: Escalation.how(reason, state.on_crash)

  # The port ended before it was watched: with its caller, or by a close.
  defp caller_reason({:ended, reason}), do: reason

  defp caller_reason(caller) do
    receive do
      {:DOWN, ^caller, :process, _pid, reason} -> reason
    after
      0 -> :normal
    end
  end

  defp look(state, waited) do
    case open_shim(state) do
      {:ok, fd} -> state |> hold(fd) |> keep(:infinity)
      {:error, :esrch} -> exit({:shutdown, :shim_ended})
      {:error, _not_yet} -> keep(state, min(waited * 2, @seldom_ms))
    end
  end

  defp open_shim(%{os_pid: nil}), do: {:error, :not_ours}
  # If a port is closed right after it was opened, its shim may not be executed yet.
  defp open_shim(%{os_pid: pid, run_id: run_id, number: number}),
    do: Handle.open(pid, run_id, number)

  defp hold(state, fd) do
    :ok = Native.await_end(fd, {:leash, :shim_ended})
    %{state | fd: fd}
  end

  defp closed(%{fd: nil} = state, how),
    do: find(state, how, @looks_ms.first, now() + @unseen_ms)

  defp closed(state, how), do: tell(state, how)

  # A port that is closed right after it was opened may have a shim that is still to be executed.
  defp find(state, how, pause, deadline) do
    case open_shim(state) do
      {:ok, fd} ->
        state |> hold(fd) |> tell(how)

      {:error, :esrch} ->
        exit({:shutdown, :shim_ended})

      {:error, _not_yet} ->
        if now() >= deadline, do: leave(how)

        receive do
        after
          pause -> find(state, how, min(pause * 2, @looks_ms.last), deadline)
        end
    end
  end

  @spec tell(map(), :ladder | :kill) :: no_return()
  defp tell(state, how) do
    if Native.pidfd_ended?(state.fd) == true, do: exit({:shutdown, :shim_ended})

    # If the pipe hung up, the ladder has begun, and this one signal changes nothing.
    _ = Handle.tell(state.number, state.fd, how)
    Registry.change(state.number, tree: :ending)
    leave(how)
  end

  # The Reaper continues from here.
  @spec leave(:ladder | :kill) :: no_return()
  defp leave(how), do: exit({:told, how})

  defp now, do: System.monotonic_time(:millisecond)
end
