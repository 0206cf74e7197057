defmodule Leash.OSProcess do
  @moduledoc """
  Any process of this machine, by identity instead of by number.

      iex> {:ok, process} = Leash.OSProcess.identify(String.to_integer(System.pid()))
      iex> Leash.OSProcess.alive?(process)
      true
      iex> Leash.OSProcess.signal(process, :sigterm)
      {:error, {:refused, :vm}}

  The kernel gives a process's number to somebody else as soon as the process is reaped. A *handle* is the number together
  with what does not come back: the start time and, from Linux 6.9 on, the inode of the process's pidfd. Every function opens
  a pidfd, compares, looks whether the process still lives, and only then acts, through the pidfd (pidfd_open(2),
  pidfd_send_signal(2)).

  ## Numbers

  Where a function takes a `t:target/0`, a bare integer means *whoever has that number at the call*. Take a handle where
  time passes between learning the number and using it. `0`, `1` and negative numbers raise
  `ArgumentError`: for kill(2) they are groups, everybody and init.

  ## Whom nobody signals

  `signal/2` and `kill/2` answer `{:error, {:refused, why}}` for the VM itself (`:vm`), its parents up to the first
  process (`:ancestor`), threads of the kernel (`:kernel_thread`) and pid 1 (`:pid_1`).

  ## Error reasons

    * `:esrch` - the process has ended. A zombie has ended.
    * `:reused` - the process has ended and its number belongs to another one
    * `:eperm` - the kernel does not let this user signal it (kill(2))
    * `{:refused, why}` - see above
    * `:unknown` - somebody has the number, but `/proc` does not say who: `hidepid`, or it is a thread's number
    * `:no_proc` - `/proc` is not mounted, or shows another pid namespace
    * `:emfile`, `:enfile` - no descriptor is left, in this VM or on this machine
    * `:enosys` - the kernel has no pidfds (Linux before 5.3)
    * any other lower-case POSIX name, or `{:errno, number}`, for what these system calls are not documented to say

  Nothing here belongs to a run: any process may be looked at, and everything that the kernel permits may be signalled. To end what a
  `Leash.Worker` started, stop the worker.
  """

  alias Leash.{Ladder, Native, Signal}
  alias Leash.OSProcess.Watcher

  @enforce_keys [:pid, :start_ticks]
  defstruct [:pid, :start_ticks, :pidfs_inode]

  @typedoc """
  A handle: one process, for ever.

  `:start_ticks` is field 22 of proc_pid_stat(5), `:pidfs_inode` is `nil` before Linux 6.9.
  """
  @type t :: %__MODULE__{
          pid: pos_integer(),
          start_ticks: non_neg_integer(),
          pidfs_inode: non_neg_integer() | nil
        }

  @typedoc "A handle, or the number of whoever has it at the call."
  @type target :: t() | pos_integer()

  @typedoc "Why a process could not be looked at, see the section on error reasons."
  @type reason ::
          :esrch
          | :reused
          | :unknown
          | :no_proc
          | :emfile
          | :enfile
          | :enosys
          | atom()
          | {:errno, pos_integer()}

  @typedoc "Why a process was not signalled."
  @type signal_reason ::
          reason() | :eperm | {:refused, :vm | :ancestor | :kernel_thread | :pid_1}

  @typedoc "Which step ended a process, and how long that took in all."
  @type ended :: %{
          step: non_neg_integer() | :kill,
          signal: Signal.t(),
          elapsed_ms: non_neg_integer()
        }

  # How long SIGKILL may take: milliseconds, unless the process hangs in the kernel or dumps core.
  @kill_ms 5_000

  @doc """
  The handle of whoever has a number now.

      iex> {:ok, %Leash.OSProcess{pid: pid}} = Leash.OSProcess.identify(String.to_integer(System.pid()))
      iex> pid == String.to_integer(System.pid())
      true

  A handle comes back as it is, without a look at the process.

  Errors: `:esrch`, `:unknown`, `:no_proc`, `:emfile`, `:enfile`, `:enosys`.
  """
  @spec identify(target()) :: {:ok, t()} | {:error, reason()}
  def identify(%__MODULE__{} = process), do: {:ok, process}

  def identify(pid) do
    with {:ok, parts} <- Native.process_identify(number!(pid)), do: {:ok, from_parts(parts)}
  end

  @doc """
  Whether a process lives.

  A zombie does not; a process whose first thread has ended while others run does; a process that may not be signalled does. Where the
  answer cannot be known (`:unknown`, `:no_proc`, no descriptors) it raises `ErlangError`: neither `true` nor `false`
  would be honest.
  """
  @spec alive?(target()) :: boolean()
  def alive?(target) do
    case alive(target) do
      answer when is_boolean(answer) -> answer
      {:error, reason} -> raise ErlangError, original: {:os_process, reason}
    end
  end

  defp alive(%__MODULE__{} = process) do
    Native.process_alive(process.pid, process.start_ticks, process.pidfs_inode)
  end

  defp alive(pid) do
    case identify(pid) do
      {:ok, process} -> alive(process)
      {:error, :esrch} -> false
      {:error, reason} -> {:error, reason}
    end
  end

  @doc """
  What `/proc` says about a process; for people and consoles, it reads six files.

    * `:pid`, `:ppid` - numbers; `ppid: nil` where the parent is outside this pid namespace
    * `:state` - the letter of proc_pid_stat(5): `"R"`, `"S"`, `"D"`, `"T"` …
    * `:command` - its command line as one string of at most 200 characters, or its name
    * `:args` - its arguments, as it (re)wrote them; `nil` where they are not readable, at most 128 KiB
    * `:uid` - its effective user id
    * `:start_ticks` - as in the handle
    * `:rss_bytes` - resident memory, `nil` where it has none
    * `:threads` - how many threads it has
    * `:run` - `nil`, or the run it says it belongs to: `%{run_id: id, worker: number | nil, carrier: :mark | :env | :argv}`.
      Anybody can write a tag on himself, so this proves nothing.

  Errors: `:esrch`, `:reused`, `:unknown`, `:no_proc`, `:emfile`, `:enfile`, `:enosys`.
  """
  @spec info(target()) :: {:ok, map()} | {:error, reason()}
  def info(target) do
    with {:ok, process} <- identify(target),
         do: Native.process_info(process.pid, process.start_ticks, process.pidfs_inode)
  end

  @doc """
  Sends a signal: `:sigterm`, `:sigkill` and the other names of signal(7), or a number from 1 to 64.

  `:ok` means sent, not obeyed.

  Errors: those of `info/1`, `:eperm`, `{:refused, why}`.
  """
  @spec signal(target(), Signal.t()) :: :ok | {:error, signal_reason()}
  def signal(target, signal) do
    number = signal!(signal)

    with {:ok, fd} <- open_to_signal(target) do
      result = Native.pidfd_signal(fd, number)
      :ok = Native.fd_close(fd)
      result
    end
  end

  @doc """
  Ends a process, and returns when it is gone.

  Sends the signals of `stop:` one after the other and waits after each; SIGKILL comes last and is waited for up to five seconds.
  Every signal is followed by SIGCONT, or a stopped process could not obey.

      Leash.OSProcess.kill(process, stop: [sigint: 500, sigterm: 1_500])
      #=> {:ok, %{step: 0, signal: :sigint, elapsed_ms: 12}}

  Only this process: its children live on (see `children/1`).

  ## Options

    * `:stop` - the steps, as in `t:Leash.Ladder.t/0` but without `to:`; default `[sigterm: 2_000]`, `[]` is SIGKILL
      at once

  ## Result

  `{:ok, %{step: step, signal: signal, elapsed_ms: ms}}`: it is gone, seen by the kernel's pidfd. `step` counts from 0, the final SIGKILL
  is `:kill`; it is the step under which the process ended, whatever moved it to.

  Errors: those of `signal/2`, where `:esrch` and `:reused` mean that it had ended before; and `:uninterruptible`: SIGKILL was sent and the
  process has not ended after five seconds (state `D`, a traced process, a large core dump).

  The calling process waits; if it dies meanwhile, the rest of the ladder is not gone through.
  """
  @spec kill(target(), stop: [{Signal.t(), timeout()}]) ::
          {:ok, ended()} | {:error, signal_reason() | :uninterruptible}
  def kill(target, options \\ []) do
    steps = steps!(options)

    with {:ok, fd} <- open_to_signal(target) do
      ref = make_ref()
      result = with :ok <- Native.pidfd_monitor(fd, {ref, :ended}), do: climb(steps, fd, ref)
      :ok = Native.fd_close(fd)
      flush(ref)
      result
    end
  end

  @doc """
  Tells the calling process when a process ends.

  The message is `{:DOWN, ref, :os_process, handle, why}`, once. `why` is

    * `:exited` - it ended; how, only its parent learns
    * `:noproc` - it had ended before the call; the message is there at once
    * `{:error, reason}` - it cannot be watched, see "Error reasons"; the message is there at once

  In place of the handle stands what was given, where a number's holder could not be identified. Watching needs no permission, and the
  process need not be a child. Several monitors of one process each get their message.
  """
  @spec monitor(target()) :: reference()
  def monitor(target) do
    case identify(target) do
      {:ok, process} -> Watcher.monitor(process)
      {:error, :esrch} -> already(target, :noproc)
      {:error, reason} -> already(target, {:error, reason})
    end
  end

  defp already(target, why) do
    ref = make_ref()
    send(self(), {:DOWN, ref, :os_process, target, why})
    ref
  end

  @doc """
  Ends a monitor of the calling process. No message of it comes afterwards; one that has come already is removed.

  Always `true`, also for a monitor that fired or never was.
  """
  @spec demonitor(reference()) :: true
  def demonitor(ref) when is_reference(ref) do
    :ok = Watcher.demonitor(ref)

    receive do
      {:DOWN, ^ref, :os_process, _process, _why} -> true
    after
      0 -> true
    end
  end

  @doc """
  The handles of a process's children.

  A snapshot: a process that forks as fast as it can is ahead of it.

  Errors: those of `info/1`.
  """
  @spec children(target()) :: {:ok, [t()]} | {:error, reason()}
  def children(target) do
    with {:ok, process} <- identify(target),
         {:ok, children} <-
           Native.process_children(process.pid, process.start_ticks, process.pidfs_inode) do
      {:ok, Enum.map(children, &from_parts/1)}
    end
  end

  defp climb(steps, fd, ref) do
    began = System.monotonic_time(:millisecond)
    all = Enum.with_index(steps) ++ [{{:sigkill, @kill_ms}, :kill}]
    climb(all, fd, ref, began)
  end

  defp climb([], _fd, _ref, _began), do: {:error, :uninterruptible}

  defp climb([{{signal, wait}, step} | rest], fd, ref, began) do
    # The process may end between two signals: esrch then means that the message is on its way.
    case Native.pidfd_signal(fd, signal!(signal)) do
      {:error, reason} when reason != :esrch ->
        {:error, reason}

      _sent_or_ended ->
        _ = Native.pidfd_signal(fd, signal!(:sigcont))

        if ended?(ref, wait),
          do: {:ok, %{step: step, signal: signal, elapsed_ms: elapsed(began)}},
          else: climb(rest, fd, ref, began)
    end
  end

  defp ended?(ref, wait) do
    receive do
      {^ref, :ended} -> true
    after
      wait -> false
    end
  end

  defp elapsed(began), do: System.monotonic_time(:millisecond) - began

  defp flush(ref) do
    receive do
      {^ref, :ended} -> :ok
    after
      0 -> :ok
    end
  end

  defp open_to_signal(target) do
    with {:ok, process} <- identify(target),
         nil <- Native.process_refusal(process.pid) do
      Native.process_open(process.pid, process.start_ticks, process.pidfs_inode)
    else
      {:error, reason} -> {:error, reason}
      why -> {:error, {:refused, why}}
    end
  end

  defp from_parts({pid, start_ticks, inode}),
    do: %__MODULE__{pid: pid, start_ticks: start_ticks, pidfs_inode: inode}

  # Above 2^31-1 is no number that a process could have (pid_t, <sys/types.h>).
  defp number!(pid) when is_integer(pid) and pid in 2..0x7FFFFFFF, do: pid

  defp number!(other) do
    raise ArgumentError,
          "expected a Leash.OSProcess handle or a process number from 2 up, got: #{inspect(other)}"
  end

  defp signal!(signal) do
    case Signal.number(signal) do
      {:ok, number} ->
        number

      :error ->
        raise ArgumentError,
              "expected a signal such as :sigterm or a number from 1 to 64, got: #{inspect(signal)}"
    end
  end

  defp steps!(options) do
    steps = stop!(options)
    Enum.each(steps, &step!/1)
    steps
  end

  defp stop!([]), do: Ladder.default()
  defp stop!(stop: steps) when is_list(steps), do: steps

  defp stop!(other) do
    raise ArgumentError,
          "expected options with :stop, a list of steps {signal, milliseconds}, got: #{inspect(other)}"
  end

  defp step!({signal, wait})
       when wait == :infinity or (is_integer(wait) and wait in 0..0x7FFFFFFF),
       do: signal!(signal)

  defp step!(other) do
    raise ArgumentError,
          "expected a step {signal, milliseconds | :infinity} in :stop, got: #{inspect(other)}"
  end
end
