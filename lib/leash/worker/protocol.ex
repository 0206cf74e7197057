defmodule Leash.Worker.Protocol do
  # Every message to and from the process of a tree. The calls are those of `Leash.Worker`.
  @moduledoc false

  alias Leash.Native

  @typedoc """
  The messages that a Worker process handles.

    * `{:leash, {:stop, from, how}}` - end the tree and reply, also during the start
    * `{:leash, {:fail_unhealthy, number, reason}}` - end the tree of this number; the process
      exits with the reason
    * `{:leash, {:forget, pid}}` - a caller of `Leash.Worker.await/2` has given up
    * `{:leash, :owner_ended}` - the end of the OS process that owns an attached tree
    * `{:leash, {:shim_ended, number}}` - the end of the shim, from its pidfd
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
          | {:leash, {:fail_unhealthy, pos_integer(), term()}}
          | {:leash, {:forget, pid()}}
          | {:leash, {:shim_ended, pos_integer()}}
          | {:leash, :owner_ended}
          | {:leash_fd, Native.fd(), :ready}
          | {:output_ready, pid()}
          | {:output_tail, [String.t()]}
          | {:timeout, reference(), atom()}
          | {:DOWN, reference(), :process, pid(), term()}
          | {:EXIT, pid() | port(), term()}
          | call()

  @typedoc """
  A call that a worker takes while its program is starting again. Other calls wait.
  """
  @type call :: {:"$gen_call", GenServer.from(), :info | :await | {:stop, :ladder | :kill}}

  @doc "Asks for the end of a tree. The answer is that of `Leash.Worker.stop/2`."
  @spec stop(pid(), GenServer.from(), :ladder | :kill) :: :ok
  def stop(worker, from, how), do: tell(worker, {:stop, from, how})

  @doc "Ends the tree of this number in order. Its process may have another tree by now."
  @spec fail_unhealthy(pid(), pos_integer(), term()) :: :ok
  def fail_unhealthy(worker, number, reason),
    do: tell(worker, {:fail_unhealthy, number, reason})

  @doc "Takes back the calling process's `:await`."
  @spec forget(GenServer.server()) :: :ok
  def forget(worker) do
    _ =
      with worker when worker != nil <- GenServer.whereis(worker),
           do: tell(worker, {:forget, self()})

    :ok
  end

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

  @doc """
  Waits so many milliseconds for the next message.

  If `calls?` is true, takes a `t:call/0`, too. Other calls stay in the mailbox.
  """
  @spec next(timeout(), boolean()) :: t() | :timeout
  def next(ms, calls?) do
    receive do
      {:EXIT, _, _} = message -> message
      {:leash, _} = message -> message
      {:leash_fd, _, _} = message -> message
      {:output_ready, _} = message -> message
      {:output_tail, _} = message -> message
      {:timeout, _, _} = message -> message
      {:DOWN, _, _, _, _} = message -> message
      {:"$gen_call", _, {:stop, _}} = message when calls? -> message
      {:"$gen_call", _, call} = message when calls? and call in [:info, :await] -> message
    after
      ms -> :timeout
    end
  end

  @doc "Takes the requests for an end, or for its report, from the mailbox, including calls."
  @spec pending() :: [{:stop, GenServer.from(), :ladder | :kill} | {:await, GenServer.from()}]
  def pending do
    receive do
      {:"$gen_call", from, {:stop, how}} -> [{:stop, from, how} | pending()]
      {:"$gen_call", from, :await} -> [{:await, from} | pending()]
      {:leash, {:stop, from, how}} -> [{:stop, from, how} | pending()]
    after
      0 -> []
    end
  end
end
