defmodule Leash.Native do
  @moduledoc false
  # One stub line per native function. The comments in native/nif/src describe what each does.
  # Nothing is decided here. Bad argument types raise ArgumentError. A panic of the native side is
  # an ErlangError with `original: :nif_panicked`.

  # `load/0` runs as soon as this module is compiled.
  Code.ensure_compiled!(Leash.Platform)

  @on_load :load

  @typedoc "A descriptor of this VM: a pipe end, socket or pidfd. It closes when its owner ends."
  @type fd :: reference()
  @typedoc "A lower-case POSIX error name, such as `:eperm`, or a number that has none."
  @type posix :: atom() | {:errno, pos_integer()}

  @doc false
  @spec load() :: :ok | {:error, term()}
  def load, do: if(Leash.Platform.supported?(), do: load_library(), else: :ok)

  defp load_library do
    case :erlang.load_nif(library(), 0) do
      :ok -> :ok
      {:error, {_, text}} -> {:error, "leash: cannot load #{library()}.so: #{text}"}
    end
  end

  # LEASH_NIF_DIR is for tests of a library that is not installed in priv/.
  defp library do
    case System.get_env("LEASH_NIF_DIR") do
      nil -> :filename.join(priv_dir(), ~c"leash_nif")
      dir -> :filename.join(String.to_charlist(dir), ~c"leash_nif")
    end
  end

  # The code server does not know an application that is being compiled or runs from a script.
  defp priv_dir do
    with {:error, :bad_name} <- :code.priv_dir(:leash) do
      ebin = :filename.dirname(:code.which(__MODULE__))
      :filename.join(:filename.dirname(ebin), ~c"priv")
    end
  end

  # Shims that the warden starts (channel.rs)

  @spec warden_listen() :: {:ok, fd, binary} | {:error, posix}
  def warden_listen, do: stub()

  @spec warden_accept(fd, pos_integer) ::
          {:ok, fd} | :again | {:error, posix | :closed | :not_pollable}
  def warden_accept(_fd, _os_pid), do: stub()

  @spec warden_word(fd) :: {:ok, fd} | :again | {:error, posix | :closed}
  def warden_word(_control), do: stub()

  @typep source :: :none | :pipe | :inherit
  @typedoc "The sources of stdin, stdout and stderr, or a terminal that is all three."
  @type ends ::
          {source, source, source}
          | {:terminal, rows :: 1..65_535, cols :: 1..65_535, echo? :: boolean}

  @spec shim_start(fd, [binary], {binary, non_neg_integer}, ends) ::
          {:ok, fd, {fd | nil, fd | nil, fd | nil}}
          | :again
          | {:error, posix | {:pty, posix} | :closed | :no_working_directory}
  def shim_start(_control, _args, _environment, _ends), do: stub()

  @spec variable(binary) :: binary | nil
  def variable(_name), do: stub()

  @spec channel_read(fd) ::
          {:ok, binary}
          | {:spawned, binary, fd}
          | :eof
          | :again
          | {:error, posix | :closed | :not_pollable}
  def channel_read(_fd), do: stub()

  @spec channel_ask(fd, :ladder | :kill) :: :ok | {:error, posix | :closed}
  def channel_ask(_fd, _what), do: stub()

  @spec channel_signal(fd, 1..64, 0..2) :: :ok | {:error, posix | :closed}
  def channel_signal(_fd, _number, _scope), do: stub()

  # Descriptors (descriptor.rs)

  @spec fd_read(fd, pos_integer) :: {:ok, binary} | :eof | :again | {:error, posix | :closed}
  def fd_read(_fd, _max), do: stub()

  @spec fd_write(fd, iodata) ::
          {:ok, non_neg_integer} | {:again, non_neg_integer} | {:error, posix | :closed}
  def fd_write(_fd, _data), do: stub()

  @spec fd_close(fd) :: :ok
  def fd_close(_fd), do: stub()

  @spec fd_give(fd, pid) :: :ok | {:error, :noproc}
  def fd_give(_fd, _pid), do: stub()

  @spec fd_dup(fd) :: {:ok, fd} | {:error, posix | :closed}
  def fd_dup(_fd), do: stub()

  # Terminals (terminal.rs)

  @spec terminal_resize(fd, 1..65_535, 1..65_535) :: :ok | {:error, posix | :closed}
  def terminal_resize(_fd, _rows, _cols), do: stub()

  @spec terminal_info(fd) ::
          {:ok, {device :: binary, rows :: 0..65_535, cols :: 0..65_535}}
          | {:error, posix | :closed}
  def terminal_info(_fd), do: stub()

  @spec terminal_eof(fd) :: {:ok, {byte, by_line? :: boolean}} | {:error, posix | :closed}
  def terminal_eof(_fd), do: stub()

  # Pidfds (pidfd.rs)

  @spec shim_open(pos_integer, binary, 1..32_766) ::
          {:ok, fd} | {:error, :esrch | :not_ours | posix}
  def shim_open(_os_pid, _run_id, _worker), do: stub()

  @spec pidfd_signal(fd, pos_integer) ::
          :ok | {:error, :esrch | :eperm | :einval | :closed | posix}
  def pidfd_signal(_fd, _signo), do: stub()

  @spec pidfd_monitor(fd, term) :: :ok | {:error, :closed | :not_pollable}
  def pidfd_monitor(_fd, _message), do: stub()

  @spec pidfd_demonitor(fd) :: :ok
  def pidfd_demonitor(_fd), do: stub()

  @spec pidfd_ended?(fd) :: boolean | {:error, :closed | posix}
  def pidfd_ended?(_fd), do: stub()

  # Processes by identity (process.rs)

  @typedoc "A reason about a process; see the errors of `Leash.OSProcess`."
  @type process_error :: :esrch | :reused | :eperm | :unknown | :no_proc | :enosys | posix

  @spec process_identify(integer) ::
          {:ok, {pos_integer, non_neg_integer, non_neg_integer | nil}} | {:error, process_error}
  def process_identify(_pid), do: stub()

  @spec process_open(integer, non_neg_integer, non_neg_integer | nil) ::
          {:ok, fd} | {:error, process_error}
  def process_open(_pid, _start_ticks, _inode), do: stub()

  @spec process_alive(integer, non_neg_integer, non_neg_integer | nil) ::
          boolean | {:error, process_error}
  def process_alive(_pid, _start_ticks, _inode), do: stub()

  @spec process_refusal(integer) ::
          nil | :vm | :ancestor | :kernel_thread | :pid_1 | {:error, process_error}
  def process_refusal(_pid), do: stub()

  @spec process_info(integer, non_neg_integer, non_neg_integer | nil) ::
          {:ok, map} | {:error, process_error}
  def process_info(_pid, _start_ticks, _inode), do: stub()

  @spec process_children(integer, non_neg_integer, non_neg_integer | nil) ::
          {:ok, [{pos_integer, non_neg_integer, non_neg_integer | nil}]}
          | {:error, process_error}
  def process_children(_pid, _start_ticks, _inode), do: stub()

  # The run (run.rs)

  @typedoc "A locked record. The lock ends when it is closed or garbage-collected."
  @type lock :: reference()
  @typedoc "A reason about the run directory or a record, with the path if there is one."
  @type file_error :: posix | {posix, path :: binary}

  @spec run_id_generate() :: binary | {:error, file_error}
  def run_id_generate, do: stub()

  @spec owner_tag_base() ::
          {pos_integer, non_neg_integer, non_neg_integer, binary} | {:error, file_error}
  def owner_tag_base, do: stub()

  @spec owner_option() :: {pos_integer, non_neg_integer} | {:error, file_error}
  def owner_option, do: stub()

  @spec boot_id() :: binary | {:error, file_error}
  def boot_id, do: stub()

  @typep about :: %{node: binary, app: binary, version: binary, started_at: binary}

  @spec run_open(binary, about) :: {:ok, lock, binary} | {:error, file_error}
  def run_open(_run_dir, _fields), do: stub()

  @spec run_create(binary, binary, about) :: {:ok, lock} | {:error, file_error}
  def run_create(_run_dir, _run_id, _fields), do: stub()

  @spec run_forget(lock, [1..32_766]) :: :ok | {:error, file_error}
  def run_forget(_lock, _workers), do: stub()

  @spec run_ensure(lock) :: :ok | {:error, file_error}
  def run_ensure(_lock), do: stub()

  @spec run_append_command(lock, 1..32_766, binary, [binary]) :: :ok | {:error, file_error}
  def run_append_command(_lock, _worker, _flag, _command), do: stub()

  @spec run_append_unmarked(lock, 1..32_766) :: :ok | {:error, file_error}
  def run_append_unmarked(_lock, _worker), do: stub()

  @spec run_append_name(lock, 1..32_766, String.t() | nil, String.t() | nil) ::
          :ok | {:error, file_error}
  def run_append_name(_lock, _worker, _name, _group), do: stub()

  @spec run_append_groups(lock, Path.t()) :: :ok | {:error, file_error}
  def run_append_groups(_lock, _directory), do: stub()

  @spec run_append_attachment(lock, 1..32_766, pos_integer, non_neg_integer) ::
          :ok | {:error, file_error}
  def run_append_attachment(_lock, _worker, _pid, _start_ticks), do: stub()

  @spec run_close(lock, boolean) :: :ok | {:error, file_error}
  def run_close(_lock, _drop_record?), do: stub()

  # Processes that Leash did not start (attach.rs)

  @spec attach_option(integer, non_neg_integer, non_neg_integer | nil) ::
          {:ok, binary}
          | {:error, process_error | {:refused, :vm | :ancestor | :kernel_thread | :pid_1}}
  def attach_option(_pid, _start_ticks, _inode), do: stub()

  @spec not_covered(pos_integer, binary, 1..32_766) :: {:ok, [map]} | {:error, process_error}
  def not_covered(_pid, _run_id, _worker), do: stub()

  # Programs (executable.rs)

  @spec executable(binary) ::
          :ok | {:error, posix | {:type, :device | :directory | :other}}
  def executable(path),
    do: if(Leash.Platform.supported?(), do: stub(), else: Leash.Platform.executable(path))

  # Hunts (hunt.rs)

  @typedoc "A search for processes that ends them, one step at a time."
  @type hunt :: reference()

  @spec hunt_new(map) :: {:ok, hunt} | {:error, file_error | {:invalid, atom}}
  def hunt_new(_spec), do: stub()

  @spec hunt_step(hunt) :: {:wait, non_neg_integer} | {:done, map} | {:error, term}
  def hunt_step(_hunt), do: stub()

  # Trees that outlive their VM (detached.rs)

  @spec detached() :: {:ok, %{trees: [map], complete: boolean}} | {:error, process_error}
  def detached, do: stub()

  @spec detached_open(integer, non_neg_integer, non_neg_integer | nil, binary, 1..32_766) ::
          {:ok, fd} | {:error, process_error}
  def detached_open(_pid, _start_ticks, _inode, _run_id, _worker), do: stub()

  # The members of trees (census.rs)

  @spec census(binary, [{1..32_766, pos_integer | nil}], non_neg_integer) ::
          {:ok,
           [
             {1..32_766, pos_integer, pos_integer | nil, binary, binary, non_neg_integer,
              non_neg_integer, non_neg_integer}
           ]}
          | {:error, file_error | {:invalid, atom}}
  def census(_run_id, _workers, _commands), do: stub()

  # Control groups of workers (cgroup.rs)

  @typedoc "A reason about control groups; see `Leash.Cgroup`."
  @type cgroup_error ::
          :no_cgroup2
          | {:no_controller, binary, Path.t()}
          | {:no_cgroup | :occupied | :busy | posix, Path.t()}

  @spec cgroup_place(Path.t()) ::
          {:ok, %{parent: Path.t(), controllers: [binary]}} | {:error, cgroup_error}
  def cgroup_place(_path), do: stub()

  @spec cgroup_make(Path.t(), binary, [{binary, binary}]) ::
          {:ok, Path.t()} | {:error, cgroup_error}
  def cgroup_make(_parent, _name, _limits), do: stub()

  @spec cgroup_usage(Path.t()) :: %{
          oom_killed: boolean | nil,
          peak_memory: non_neg_integer | nil,
          cpu_time: non_neg_integer | nil
        }
  def cgroup_usage(_path), do: stub()

  @spec cgroup_remove(Path.t(), boolean) :: :ok | {:error, cgroup_error}
  def cgroup_remove(_path, _kill?), do: stub()

  # The host (lib.rs)

  @spec capabilities(binary) :: map | {:error, :unsupported_os}
  def capabilities(_run_dir), do: stub()

  @spec euid() :: non_neg_integer
  def euid, do: stub()

  # For the test that a panic is an exception (lib.rs)

  @spec native_panic() :: no_return
  def native_panic, do: stub()

  ## What a bare function leaves to its caller

  @doc "Closes a descriptor and removes the message that it may have sent to the caller."
  @spec close(fd | nil) :: :ok
  def close(nil), do: :ok

  def close(fd) do
    _ = fd_close(fd)

    receive do
      {:leash_fd, ^fd, _what} -> :ok
    after
      0 -> :ok
    end
  end

  @doc """
  Sends the caller the message when the process of a pidfd has ended.

  If its end cannot be watched, then the message comes at once.
  """
  @spec await_end(fd, term()) :: :ok
  def await_end(fd, message) do
    if pidfd_monitor(fd, message) != :ok, do: send(self(), message)
    :ok
  end

  @doc """
  Does the same as `pidfd_monitor/2` for a descriptor that another process may watch.

  A descriptor can notify one process at a time, and the Reaper may wait for the one in the table.
  So this function makes a copy, and returns it. The copy is open until it is closed or its owner
  ends.
  """
  @spec monitor_end(fd, term()) :: {:ok, fd} | {:error, term()}
  def monitor_end(fd, message) do
    with {:ok, own} <- fd_dup(fd), :ok <- pidfd_monitor(own, message), do: {:ok, own}
  end

  defp stub, do: Leash.Platform.without_native()
end
