defmodule Leash.Error do
  @moduledoc """
  An error of Leash itself, with a sentence for its reason.

  `Leash.cmd/3`, the streams, `Leash.open_port/3` and `Leash.run_id/0` raise it. `:reason` is the
  term that `Leash.Worker.start_link/1` returns for the same problem in `{:error, reason}`:

      iex> Exception.message(%Leash.Error{reason: :stopping})
      "Leash.stop_all/2 is ending this group at the moment"

  If a tree could not be ended, then `Leash.Worker.stop/2` and `Leash.stop_all/2` return this
  struct. `:reason` is `:survivors` then, and `:survivors` holds the processes that may still
  live, see `t:Leash.Worker.survivor/0`.

  `format/1` returns the sentence for any reason of `{:error, reason}`.
  """

  alias Leash.{Exit, WorkingDirectory}

  defexception [:reason, survivors: []]

  @type t :: %__MODULE__{reason: term(), survivors: [Leash.Worker.survivor()]}

  @reasons %{
    not_running:
      "the :leash application is not started, or is stopping (a script starts it with " <>
        "Application.ensure_all_started(:leash))",
    unsupported_os:
      "Leash runs on Linux: use a container or a virtual machine, or on a developer's machine " <>
        "only `config :leash, unsupported_os: :degrade`",
    stopping: "Leash.stop_all/2 is ending this group at the moment",
    no_warden:
      "the run's warden, which starts the shims, is away (the log and Leash.capabilities/0 " <>
        "say why)",
    shim_died: "the shim was killed, and nothing of its tree is left",
    too_many_workers: "32,766 trees live or are not yet proven gone",
    no_pidfd: "this machine has no pidfds (Linux 5.4) or no /proc",
    no_proc: "/proc cannot be read",
    incomplete: "not all of /proc can be read, so it is not known whether such a tree lives",
    ready_timeout: "the program was not ready within :ready_timeout and was ended",
    start_timeout: "the start took too long and was ended",
    noproc: "there is no such process (any more)",
    not_found: "no such tree of this user lives in this pid namespace",
    not_piped: "the worker was started with neither stdin: :pipe nor :pty",
    no_pty: "the worker was not started with :pty",
    closed: "the program's stdin was closed before",
    adopted: "of a tree that was taken over, only the program itself can be signalled",
    no_options: "this VM did not start the program, so its options are not known",
    not_reopenable:
      "this VM writes no file of the worker (stdout: {:file, path, reopen: true} makes it)",
    timeout: "the time was up",
    invalid_run_id: "a run id has 7 characters, 0-9 or a-z",
    live: "the VM of this run lives: stop that instead",
    own: "this is the run of this VM: stop the application instead",
    reused: "another process has this pid now",
    unknown: "it cannot be told whether this is still the same process"
  }

  @refusals %{
    vm: "it is this VM",
    ancestor: "it is an ancestor of this VM, or its fork server",
    kernel_thread: "it is a thread of the kernel",
    pid_1: "it is pid 1",
    marked: "it already belongs to a run",
    no_depth: "it already is inside eight runs"
  }

  @rights %{
    {:ids, :eperm} =>
      "the VM may not change to this user and these groups: it has no CAP_SETUID or " <>
        "CAP_SETGID (eperm)",
    {:ids, :einval} => "the user namespace of the VM has no such user or group (einval)",
    {:ids, :enotsup} => "only on Linux can a program run with other rights than the VM (enotsup)",
    {:kill, :eperm} =>
      "the VM could not end a program of this user again: it has no CAP_KILL (eperm)",
    {:capabilities, :eperm} =>
      "the VM does not have a capability that the program should keep (eperm)",
    {:capabilities, :einval} =>
      "root gets all capabilities of its bounding set at exec, so it keeps no selection (einval)"
  }

  @impl true
  def message(%__MODULE__{reason: :survivors, survivors: []}),
    do: "not every process could be looked at, so something of the tree may be left"

  def message(%__MODULE__{reason: :survivors, survivors: survivors}),
    do: "could not end " <> Enum.map_join(survivors, ", ", &survivor/1)

  def message(%__MODULE__{reason: reason}), do: format(reason)

  defp survivor(survivor),
    do: "#{survivor.pid} (#{survivor.command}, state #{survivor.state}): #{survivor.why}"

  @doc """
  Returns one sentence, without its full stop, for the reason of an `{:error, reason}`.

      iex> Leash.Error.format({:exec, :enoent})
      "exec: no such file or directory (enoent), or its interpreter is missing"
  """
  @spec format(term()) :: String.t()
  def format(reason) when is_exception(reason), do: Exception.message(reason)
  def format(reason) when is_map_key(@reasons, reason), do: Map.fetch!(@reasons, reason)
  def format({:unproven, why}), do: "it could not be proven that nothing is left: #{format(why)}"
  def format({:refused, why}), do: "refused: #{@refusals[why] || inspect(why)}"
  def format({:exec, :enoent}), do: "exec: #{posix(:enoent)}, or its interpreter is missing"
  def format({:record, dir, reason}), do: "the run's record, in #{dir}: #{format(reason)}"

  def format({:native_library, reason}) do
    "native_library: leash_nif.so could not be loaded (#{inspect(reason)}); the log has the " <>
      "system's reason, such as a file system that is mounted noexec"
  end

  def format({:port_in_use, path}) when is_binary(path),
    do: "another process already listens on #{path}"

  def format({reason, path}) when is_binary(path) and is_atom(reason), do: file(reason, path)

  def format({:shutdown, {:failed_to_start_child, id, reason}}),
    do: "child #{inspect(id)}: #{format(reason)}"

  def format({:EXIT, {error, stacktrace}}) when is_exception(error) and is_list(stacktrace),
    do: Exception.message(error)

  def format({:shim, :no_working_directory}), do: WorkingDirectory.message()

  def format({:port_in_use, port}), do: "another process already listens on port #{port}"

  def format({:wait_timeout, what}),
    do: "what the program waits for was not there within :wait_timeout: #{inspect(what)}"

  def format({:exited, %Exit{} = exit}),
    do: "the program ended before it was ready: #{how(exit)}" <> last_line(exit.stderr)

  def format({:already_started, pid}), do: "#{inspect(pid)} has this name already"
  def format({:ambiguous, pids}), do: "several trees of this name live: #{Enum.join(pids, ", ")}"

  def format({:detached_elsewhere, %{owner_pid: pid}}),
    do: "the VM #{pid}, which started this worker, lives"

  def format({:cgroup, why}), do: "no control group: #{cgroup(why)}"
  def format(reason) when is_map_key(@rights, reason), do: Map.fetch!(@rights, reason)
  def format({stage, reason}) when is_atom(stage), do: "#{stage}: #{format(reason)}"
  def format(reason) when is_atom(reason), do: posix(reason)
  def format(reason), do: inspect(reason)

  defp cgroup(:no_cgroup2), do: "version 2 of control groups is not mounted"
  defp cgroup({:no_cgroup, path}), do: "#{path} is none of version 2"

  defp cgroup({:no_controller, name, path}),
    do: "there is no controller \"#{name}\" in #{path}/cgroup.controllers"

  defp cgroup({:occupied, path}),
    do:
      "#{path} has processes, so the kernel lets no controller be enabled in it (the VM has " <>
        "to sit in a leaf below a delegated group)"

  defp cgroup({:busy, path}), do: "#{path} has processes that do not end"
  defp cgroup({reason, path}), do: "#{path}: #{format(reason)}"
  defp cgroup(reason), do: format(reason)

  defp file(:loose_permissions, dir),
    do: "its group or others may enter #{dir}: type: chmod 700 #{dir}"

  defp file(:foreign_owner, dir),
    do: "#{dir} belongs to another user: name another directory with run_dir:"

  defp file(:symlink, dir), do: "#{dir} is a symbolic link: name its target with run_dir:"

  defp file(:enoent, dir),
    do: "the parent of #{dir} is missing: type: mkdir -p #{Path.dirname(dir)}"

  defp file(reason, path), do: "#{path}: #{posix(reason)}"

  defp posix(reason) do
    case :file.format_error(reason) do
      ~c"unknown POSIX error" ++ _code -> inspect(reason)
      text -> "#{text} (#{reason})"
    end
  end

  # The last line tells most: an exception's message, or the reason for a usage.
  defp last_line(lines) do
    case lines |> Enum.reverse() |> Enum.find(&(String.trim(&1) != "")) do
      nil -> ""
      line -> "; the last line of its stderr is #{inspect(line, printable_limit: 500)}"
    end
  end

  defp how(%Exit{signal: nil, status: status}), do: "status #{inspect(status)}"
  defp how(%Exit{signal: signal}), do: "#{signal}"
end

defimpl Inspect, for: Leash.Error do
  @moduledoc false

  def inspect(error, _options), do: "#Leash.Error<" <> Exception.message(error) <> ">"
end
