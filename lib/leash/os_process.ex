defmodule Leash.OSProcess do
  @moduledoc """
  Any process of this machine, by identity instead of by number.

      iex> {:ok, process} = Leash.OSProcess.identify(String.to_integer(System.pid()))
      iex> Leash.OSProcess.alive?(process)
      true
      iex> Leash.OSProcess.signal(process, :sigterm)
      {:error, {:refused, :vm}}

  As soon as a process is reaped, the kernel may give its number to another process. A *handle* is
  the number together with values that do not come back. These are the start time and, from Linux
  6.9 on, the inode of the process's pidfd.

  Every function opens a pidfd, compares the values, and checks that the process still lives. Only
  then it acts, through the pidfd (pidfd_open(2), pidfd_send_signal(2)).

  ## Numbers

  If a function takes a `t:target/0`, then a bare integer is a pid, resolved when the function is
  called. If time passes between learning the number and using it, then take a handle. `0`, `1`
  and negative numbers raise `ArgumentError`. For kill(2) they mean groups, every process, and
  init.

  ## Protected processes

  `signal/2` and `kill/2` answer `{:error, {:refused, why}}` for these processes:

    * `:vm` - the VM itself
    * `:ancestor` - its parents up to the first process
    * `:kernel_thread` - threads of the kernel
    * `:pid_1` - pid 1

  ## Error reasons

    * `:esrch` - the process has ended. A zombie has ended.
    * `:reused` - the process has ended and its number belongs to another one
    * `:eperm` - the kernel does not let this user signal it (kill(2))
    * `{:refused, why}` - see above
    * `:unknown` - the number is in use, but `/proc` does not show the process: `hidepid`, or it
      is a thread's number
    * `:no_proc` - `/proc` is not mounted, or shows another pid namespace
    * `:emfile`, `:enfile` - no descriptor is left, in this VM or on this machine
    * `:enosys` - the kernel has no pidfds (Linux before 5.3)
    * any other lower-case POSIX name, or `{:errno, number}` - an error that the documentation of
      these system calls does not list

  This module knows no runs. It can look at any process, and can signal every process that the
  kernel permits. To end what a `Leash.Worker` started, stop the worker.
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

  @typedoc "A handle, or a pid, resolved when the function is called."
  @type target :: t() | pos_integer()

  @typedoc "The reason why a process could not be looked at, see the section on error reasons."
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

  @typedoc "The reason why a process was not signalled."
  @type signal_reason ::
          reason() | :eperm | {:refused, :vm | :ancestor | :kernel_thread | :pid_1}

  @typedoc "The step that ended a process, and the time that all steps took."
  @type ended :: %{
          step: non_neg_integer() | :kill,
          signal: Signal.t(),
          elapsed_ms: non_neg_integer()
        }

  # SIGKILL takes milliseconds, unless the process hangs in the kernel or dumps core.
  @kill_ms 5_000

  @doc """
  Returns the handle of the process that has a number now.

      iex> number = String.to_integer(System.pid())
      iex> {:ok, %Leash.OSProcess{pid: pid}} = Leash.OSProcess.identify(number)
      iex> pid == number
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
  Returns whether a process lives.

  A zombie does not live. A process whose first thread has ended lives while other threads run. A
  process that may not be signalled lives. If the answer cannot be known (`:unknown`, `:no_proc`,
  no descriptors), then the function raises `ErlangError`, because neither `true` nor `false`
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
  Returns what `/proc` says about a process.

  This is for people and consoles: it reads six files.

    * `:pid`, `:ppid` - numbers; `ppid: nil` if the parent is outside this pid namespace
    * `:state` - the letter of proc_pid_stat(5): `"R"`, `"S"`, `"D"`, `"T"` …
    * `:command` - its command line as one string of at most 200 characters, or its name
    * `:args` - its arguments, as it (re)wrote them, at most 128 KiB; `nil` if they are not
      readable
    * `:uid` - its effective user id
    * `:start_ticks` - as in the handle
    * `:rss_bytes` - resident memory, `nil` if it has none
    * `:threads` - how many threads it has
    * `:run` - `nil`, or the run that its tag names:
      `%{run_id: id, worker: number | nil, carrier: :mark | :env | :argv}`. Any process can tag
      itself, so a tag alone proves nothing.

  Errors: `:esrch`, `:reused`, `:unknown`, `:no_proc`, `:emfile`, `:enfile`, `:enosys`.
  """
  @spec info(target()) :: {:ok, map()} | {:error, reason()}
  def info(target) do
    with {:ok, process} <- identify(target),
         do: Native.process_info(process.pid, process.start_ticks, process.pidfs_inode)
  end

  @doc """
  Sends a signal.

  The signal is `:sigterm`, `:sigkill` or another name of signal(7), or a number from 1 to 64.
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

  Sends the signals of `stop:` one after the other and waits after each. SIGKILL comes last; the
  call waits for it up to five seconds. SIGCONT follows every signal, because a stopped process
  could not obey otherwise.

      Leash.OSProcess.kill(process, stop: [sigint: 500, sigterm: 1_500])
      #=> {:ok, %{step: 0, signal: :sigint, elapsed_ms: 12}}

  Ends only this process: its children live on (see `children/1`).

  ## Options

    * `:stop` - the steps, as in `t:Leash.Ladder.t/0` but without `to:`; default
      `[sigterm: 2_000]`, `[]` is SIGKILL at once

  ## Result

  `{:ok, %{step: step, signal: signal, elapsed_ms: ms}}` means that the process is gone, as the
  kernel's pidfd reports. `step` counts from 0; the final SIGKILL is `:kill`. It is the step
  during which the process ended, whatever the cause of the end.

  Errors are those of `signal/2` and `:uninterruptible`. `:esrch` and `:reused` mean that the
  process had ended before. `:uninterruptible` means that the process has not ended five seconds
  after SIGKILL (state `D`, a traced process, a large core dump).

  The calling process waits. If it dies meanwhile, then the rest of the ladder does not run.
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

    * `:exited` - it ended; only its parent learns how
    * `:noproc` - it had ended before the call; the message is there at once
    * `{:error, reason}` - it cannot be watched, see "Error reasons"; the message is there at once

  If the process of a number could not be identified, then the message has the number in place of
  the handle. A monitor needs no permission, and the process need not be a child. Several monitors
  of one process each get their message.
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
  Ends a monitor of the calling process.

  No message of the monitor comes afterwards. If a message has come already, then it is removed.
  The result is always `true`, also for a monitor that fired or never was.
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
  Returns the handles of a process's children.

  The list is a snapshot: a process that forks as fast as it can is ahead of it.

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
    # The process may end between two signals. Then esrch means that the message is on its way.
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

  # No pid is above 2^31-1 (pid_t, <sys/types.h>).
  defp number!(pid) when is_integer(pid) and pid in 2..0x7FFFFFFF, do: pid

  defp number!(other) do
    raise ArgumentError,
          "expected a Leash.OSProcess handle or a process number from 2 up, got: " <>
            "#{inspect(other)}"
  end

  defp signal!(signal) do
    case Signal.number(signal) do
      {:ok, number} ->
        number

      :error ->
        raise ArgumentError,
              "expected a signal such as :sigterm or a number from 1 to 64, got: " <>
                "#{inspect(signal)}#{hint(Signal.hint(signal))}"
    end
  end

  defp hint(nil), do: ""
  defp hint(text), do: " (#{text})"

  defp steps!(options) do
    steps = stop!(options)
    Enum.each(steps, &step!/1)
    steps
  end

  defp stop!([]), do: Ladder.default()
  defp stop!(stop: steps) when is_list(steps), do: steps

  defp stop!(other) do
    raise ArgumentError,
          "expected options with :stop, a list of steps {signal, milliseconds}, got: " <>
            "#{inspect(other)}"
  end

  defp step!({signal, wait})
       when wait == :infinity or (is_integer(wait) and wait in 0..0x7FFFFFFF),
       do: signal!(signal)

  defp step!(other) do
    raise ArgumentError,
          "expected a step {signal, milliseconds | :infinity} in :stop, got: #{inspect(other)}"
  end
end
