defmodule Leash.Shim.Handle do
  # A shim by its pidfd: signals to it, and the pidfd of a port's shim, or of one whose warden was
  # killed before it could send it. That of every other shim comes with its start
  # (`Leash.Worker.Channel`).
  #
  # What tells that a number is this very shim's reads `/proc` on another thread, which costs as
  # much as a tenth of a short program's life. So a port's shim is not held in its first
  # milliseconds; what has to signal it by then opens it at that moment.
  #
  # Where pidfds or `/proc` are refused, no number can be proven: a port is let go, and a Worker
  # asks over its channel.
  @moduledoc false

  alias Leash.{Native, Registry}

  @key {__MODULE__, :possible?}

  # Most programs that end quickly have by then.
  @after_ms 20

  # Not TERM, which a shim ignores when it comes from pid 1 (everybody was signalled): in a container we are that.
  @sigint 2
  @sigquit 3
  @sigkill 9
  @sigcont 18

  @doc "How long a port's shim lives unheld where nothing needs it, in milliseconds."
  @spec after_ms() :: pos_integer()
  def after_ms, do: @after_ms

  @doc """
  Finds out what this machine lets one do, while descriptors are plenty: without one it would look as if it had no pidfds.
  """
  @spec find_out() :: %{proc: boolean(), pidfd: boolean()}
  def find_out do
    found = "" |> Native.capabilities() |> Map.take([:proc, :pidfd])
    :persistent_term.put(@key, found.proc and found.pidfd)
    found
  end

  @doc "Whether shims can be held and signalled here at all."
  @spec possible?() :: boolean()
  def possible?, do: :persistent_term.get(@key, true)

  @doc """
  Opens the shim of a worker, and notes it in the worker's row.

  The pidfd outlives the caller (`Leash.Registry.keep/1`).
  Errors: `:esrch` (it has ended), `:not_ours` (the number is another's, or the shim is not executed yet), and what pidfd_open(2) says.
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

  `:ladder` is for once only: a second one means SIGKILL to the shim's tree. A shim that is gone has done what it was to do, so
  an error is one of the machine: it refuses such signals.
  """
  @spec signal(Native.fd(), :wake | :ladder | :kill | :sigkill) :: :ok | {:error, term()}
  def signal(fd, how) do
    signal = %{wake: @sigcont, ladder: @sigint, kill: @sigquit, sigkill: @sigkill}[how]

    sent = Native.pidfd_signal(fd, signal)
    _ = Native.pidfd_signal(fd, @sigcont)
    with {:error, reason} when reason in [:esrch, :closed] <- sent, do: :ok
  end

  @doc "Like `signal/2`, but that a shim whose ladder somebody else has begun is only woken."
  @spec tell(pos_integer(), Native.fd(), :ladder | :kill) :: :ok | {:error, term()}
  def tell(number, fd, :ladder),
    do: signal(fd, if(Registry.first_to_tell?(number), do: :ladder, else: :wake))

  def tell(_number, fd, :kill), do: signal(fd, :kill)

  @doc "The row with its shim held, where that lives."
  @spec of_row(Registry.row(), Leash.Run.t()) :: Registry.row()
  def of_row(%{shim_fd: nil, shim: pid} = row, run) when pid != nil do
    case open(pid, run.id, row.number) do
      {:ok, fd} -> %{row | shim_fd: fd}
      {:error, _gone} -> row
    end
  end

  def of_row(row, _run), do: row
end
