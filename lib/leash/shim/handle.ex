defmodule Leash.Shim.Handle do
  # A shim by its pidfd, and signals to it.
  #
  # This module opens the pidfd of a port's shim, and of a shim whose warden was killed before it
  # could send the pidfd. The pidfd of every other shim comes with its start
  # (`Leash.Worker.Channel`).
  #
  # The check that a pid is this very shim reads `/proc` on another thread. It costs as much as a
  # tenth of a short program's life. So a port's shim is not held in its first milliseconds. If it
  # must be signalled by then, its pidfd is opened at that moment.
  #
  # If pidfds or `/proc` are refused, no pid can be proven. Then a port is let go, and a Worker
  # asks over its channel.
  @moduledoc false

  alias Leash.{Native, Registry}

  @key {__MODULE__, :possible?}

  # Most programs that end quickly have ended by then.
  @after_ms 20

  # Not TERM, which a shim ignores if it comes from pid 1 (it means that every process was
  # signalled). In a container this VM is pid 1.
  @sigint 2
  @sigquit 3
  @sigkill 9
  @sigcont 18

  @doc "Returns the milliseconds that a port's shim lives unheld if nothing needs it."
  @spec after_ms() :: pos_integer()
  def after_ms, do: @after_ms

  @doc """
  Finds out whether this machine allows pidfds. Call it while descriptors are plenty.

  Without a descriptor, the machine would look as if it had no pidfds.
  """
  @spec find_out() :: %{proc: boolean(), pidfd: boolean()}
  def find_out do
    found = "" |> Native.capabilities() |> Map.take([:proc, :pidfd])
    :persistent_term.put(@key, found.proc and found.pidfd)
    found
  end

  @doc "Returns whether shims can be held and signalled here at all."
  @spec possible?() :: boolean()
  def possible?, do: :persistent_term.get(@key, true)

  @doc """
  Opens the shim of a worker, and writes it to the worker's row.

  The pidfd outlives the caller (`Leash.Registry.keep/1`). The errors are `:esrch` (the shim has
  ended), `:not_ours` (the pid is another's, or the shim is not executed yet), and those of
  pidfd_open(2).
  """
  @spec open(pos_integer(), Leash.RunId.t(), pos_integer()) ::
          {:ok, Native.fd()} | {:error, atom()}
  def open(pid, run_id, number) do
    with {:ok, fd} <- Native.shim_open(pid, run_id, number) do
      :ok = Registry.keep(fd)
      Registry.change(number, shim_fd: fd, shim: pid)
      {:ok, fd}
    end
  end

  @doc """
  Signals a shim, and wakes it if it is stopped.

  Send `:ladder` only once: a second one means SIGKILL to the shim's tree. If the shim is gone,
  its task is done, and the result is `:ok`. So an error means that the machine refuses such
  signals.
  """
  @spec signal(Native.fd(), :wake | :ladder | :kill | :sigkill) :: :ok | {:error, term()}
  def signal(fd, how) do
    signal = %{wake: @sigcont, ladder: @sigint, kill: @sigquit, sigkill: @sigkill}[how]

    sent = Native.pidfd_signal(fd, signal)
    _ = Native.pidfd_signal(fd, @sigcont)
    with {:error, reason} when reason in [:esrch, :closed] <- sent, do: :ok
  end

  @doc "Signals like `signal/2`, but only wakes a shim if another process has begun its ladder."
  @spec tell(pos_integer(), Native.fd(), :ladder | :kill) :: :ok | {:error, term()}
  def tell(number, fd, :ladder),
    do: signal(fd, if(Registry.first_to_tell?(number), do: :ladder, else: :wake))

  def tell(_number, fd, :kill), do: signal(fd, :kill)

  @doc "Returns the row with its shim held, if the shim lives."
  @spec of_row(Registry.row(), Leash.Run.t()) :: Registry.row()
  def of_row(%{shim_fd: nil, shim: pid} = row, run) when pid != nil do
    case open(pid, run.id, row.number) do
      {:ok, fd} -> %{row | shim_fd: fd}
      {:error, _gone} -> row
    end
  end

  def of_row(row, _run), do: row
end
