defmodule Leash.OSProcess.Watcher do
  # Holds the pidfds of one process's monitors.
  #
  # A pidfd must be closed after it fired, which takes a process. The message goes to the
  # monitoring process, which does not know of descriptors. So there is one watcher per caller,
  # not one per monitor: demonitor/1 has only a reference to find its pidfd by. The watcher ends
  # with its caller.
  @moduledoc false

  use GenServer
  use Leash.ShortStatus, [:caller]

  alias Leash.{Native, OSProcess}

  @doc "Monitors on behalf of the calling process."
  @spec monitor(OSProcess.t()) :: reference()
  def monitor(process), do: GenServer.call(watcher(), {:monitor, process}, :infinity)

  @doc "Forgets a monitor of the calling process. On return, all its messages have been sent."
  @spec demonitor(reference()) :: :ok
  def demonitor(ref) do
    case Process.get(__MODULE__) do
      nil -> :ok
      watcher -> GenServer.call(watcher, {:demonitor, ref}, :infinity)
    end
  catch
    # The watcher was killed, and its monitors with it.
    :exit, _reason -> :ok
  end

  defp watcher do
    watcher = Process.get(__MODULE__)
    if is_pid(watcher) and Process.alive?(watcher), do: watcher, else: start()
  end

  defp start do
    # Not linked: a caller that traps exits would get the exit of a process that it did not start.
    {:ok, watcher} = GenServer.start(__MODULE__, self())
    Process.put(__MODULE__, watcher)
    watcher
  end

  @impl true
  def init(caller) do
    {:ok, %{caller: caller, caller_monitor: Process.monitor(caller), pidfds: %{}}}
  end

  @impl true
  def handle_call({:monitor, process}, _from, state) do
    ref = make_ref()

    with {:ok, fd} <- open(process),
         :ok <- Native.pidfd_monitor(fd, {:ended, ref}) do
      {:reply, ref, put_in(state.pidfds[ref], {fd, process})}
    else
      why ->
        tell(state, ref, process, why)
        {:reply, ref, state}
    end
  end

  def handle_call({:demonitor, ref}, _from, state), do: {:reply, :ok, forget(state, ref)}

  @impl true
  def handle_info({:ended, ref}, state) do
    case state.pidfds do
      %{^ref => {_fd, process}} ->
        tell(state, ref, process, :exited)
        {:noreply, forget(state, ref)}

      _demonitored ->
        {:noreply, state}
    end
  end

  def handle_info({:DOWN, monitor, :process, _caller, _why}, %{caller_monitor: monitor} = state),
    do: {:stop, :normal, state}

  def handle_info(_other, state), do: {:noreply, state}

  defp open(process) do
    case Native.process_open(process.pid, process.start_ticks, process.pidfs_inode) do
      {:error, reason} when reason in [:esrch, :reused] -> :noproc
      result -> result
    end
  end

  defp tell(state, ref, process, why),
    do: send(state.caller, {:DOWN, ref, :os_process, process, why})

  defp forget(state, ref) do
    with %{^ref => {fd, _process}} <- state.pidfds, do: Native.fd_close(fd)
    %{state | pidfds: Map.delete(state.pidfds, ref)}
  end
end
