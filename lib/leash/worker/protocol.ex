defmodule Leash.Worker.Protocol do
  # Every message to and from the process of a tree. The calls are those of `Leash.Worker`.
  @moduledoc false

  alias Leash.Native

  @typedoc """
  The messages that a Worker process handles.

    * `{:leash, {:stop, from, how}}` - end the tree and reply, also during the start
    * `{:leash, {:fail_unhealthy, reason}}` - end the tree; the process exits with the reason
    * `{:leash, :owner_ended}` - the end of the OS process that owns an attached tree
    * `{:leash, :shim_ended}` - the end of the shim, from its pidfd
    * `{:leash_fd, fd, :ready}` - the channel can be read
    * `{:output_ready, pid}` - `:ready` is fulfilled
    * `{:output_tail, lines}` - the last lines of stderr, before its reader ends
    * `{:timeout, timer, name}` - a timer of `Leash.Worker.Machine`
    * `{:DOWN, …}` - the end of the hunt, of the supervisor of `:leash`, or of an attached tree's
      owner
    * `{:EXIT, …}` - the end of the parent, or of a process that reads or writes a pipe
  """
  @type t ::
          {:leash, {:stop, GenServer.from(), :ladder | :kill}}
          | {:leash, {:fail_unhealthy, term()}}
          | {:leash, :owner_ended | :shim_ended}
          | {:leash_fd, Native.fd(), :ready}
          | {:output_ready, pid()}
          | {:output_tail, [String.t()]}
          | {:timeout, reference(), atom()}
          | {:DOWN, reference(), :process, pid(), term()}
          | {:EXIT, pid() | port(), term()}

  @doc "Asks for the end of a tree. The answer is that of `Leash.Worker.stop/2`."
  @spec stop(pid(), GenServer.from(), :ladder | :kill) :: :ok
  def stop(worker, from, how), do: tell(worker, {:stop, from, how})

  @doc "Ends a worker in order, with this reason."
  @spec fail_unhealthy(pid(), term()) :: :ok
  def fail_unhealthy(worker, reason), do: tell(worker, {:fail_unhealthy, reason})

  @doc "Reports that the worker is ready."
  @spec ready(pid()) :: :ok
  def ready(worker) do
    send(worker, {:output_ready, self()})
    :ok
  end

  @doc "Reports the last lines of stderr, at its end."
  @spec stderr(pid(), [String.t()]) :: :ok
  def stderr(worker, lines) do
    send(worker, {:output_tail, lines})
    :ok
  end

  defp tell(worker, message) do
    send(worker, {:leash, message})
    :ok
  end

  @doc "Waits so many milliseconds for the next message. Calls stay in the mailbox."
  @spec next(timeout()) :: t() | :timeout
  def next(ms) do
    receive do
      {:EXIT, _, _} = message -> message
      {:leash, _} = message -> message
      {:leash_fd, _, _} = message -> message
      {:output_ready, _} = message -> message
      {:output_tail, _} = message -> message
      {:timeout, _, _} = message -> message
      {:DOWN, _, _, _, _} = message -> message
    after
      ms -> :timeout
    end
  end

  @doc "Takes the requests for an end from the mailbox, including calls."
  @spec pending_stops() :: [{GenServer.from(), :ladder | :kill}]
  def pending_stops do
    receive do
      {:"$gen_call", from, {:stop, how}} -> [{from, how} | pending_stops()]
      {:leash, {:stop, from, how}} -> [{from, how} | pending_stops()]
    after
      0 -> []
    end
  end
end
