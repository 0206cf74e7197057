defmodule Demo.Outside do
  # The demo's own view: it reads /proc and control groups itself and uses nothing of Leash. Its
  # counts are therefore no claim of Leash about Leash.
  @moduledoc false

  import Bitwise

  @doc "Returns every process: identity, parent, command, and the run that its mark names."
  def processes do
    for name <- File.ls!("/proc"),
        {pid, ""} <- [Integer.parse(name)],
        process = read(pid),
        do: process
  end

  @doc "Whether a process seen before still lives. A zombie does not."
  def alive?(%{pid: pid, start: start}), do: match?(%{start: ^start}, read(pid))

  defp read(pid) do
    with {:ok, stat} <- File.read("/proc/#{pid}/stat"),
         # The name may hold spaces and brackets; the last bracket ends it.
         [_all, name, rest] <- Regex.run(~r/^\d+ \((.*)\) (.*)$/s, stat),
         [state, parent | fields] when state not in ["Z", "X"] <- String.split(rest) do
      %{
        pid: pid,
        parent: String.to_integer(parent),
        start: Enum.at(fields, 17),
        command: command(pid, name),
        run: marked_run(pid)
      }
    else
      # The process is gone meanwhile, or a zombie.
      _other -> nil
    end
  end

  defp command(pid, name) do
    case File.read("/proc/#{pid}/cmdline") do
      {:ok, line} when line != "" -> line |> String.replace("\0", " ") |> String.trim()
      _none -> "[#{name}]"
    end
  end

  # The hard RLIMIT_LOCKS: magic in bits 62 to 56, the run's number in bits 52 to 16.
  defp marked_run(pid) do
    with {:ok, limits} <- File.read("/proc/#{pid}/limits"),
         [_all, hard] <- Regex.run(~r/^Max file locks +\S+ +(\d+)/m, limits),
         hard = String.to_integer(hard),
         0x4C <- hard >>> 56 do
      (hard >>> 16 &&& (1 <<< 37) - 1)
      |> Integer.to_string(36)
      |> String.downcase()
      |> String.pad_leading(7, "0")
    else
      _unmarked -> nil
    end
  end

  @doc "Whether a process has this file open, which it inherited from the process that opened it."
  def holds?(%{pid: pid}, path) do
    case File.ls("/proc/#{pid}/fd") do
      {:ok, fds} -> Enum.any?(fds, &(File.read_link("/proc/#{pid}/fd/#{&1}") == {:ok, path}))
      {:error, _gone} -> false
    end
  end

  @doc "Returns the processes below one, in the order of the tree, each with its depth."
  def tree(processes, root), do: tree(processes, root, 0)

  defp tree(processes, parent, depth) do
    processes
    |> Enum.filter(&(&1.parent == parent))
    |> Enum.sort_by(& &1.pid)
    |> Enum.flat_map(&[{depth, &1} | tree(processes, &1.pid, depth + 1)])
  end

  @doc "Makes a control group for the demo; returns nil where none can be made."
  def make_cgroup do
    ~w(/sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/pids)
    |> Enum.filter(&File.exists?(Path.join(&1, "cgroup.procs")))
    |> Enum.map(
      &Path.join(&1, "leash-demo-#{System.pid()}-#{System.unique_integer([:positive])}")
    )
    |> Enum.find(&(File.mkdir(&1) == :ok and joinable?(&1)))
  end

  # Some hierarchies allow a new directory but let no process enter it.
  defp joinable?(cgroup) do
    script = "echo $$ > \"$1\"/cgroup.procs"
    {_output, status} = System.cmd("sh", ["-c", script, "sh", cgroup], stderr_to_stdout: true)
    if status != 0, do: File.rmdir(cgroup)
    status == 0
  end

  @doc "Returns the pids in a control group."
  def members(cgroup) do
    cgroup
    |> Path.join("cgroup.procs")
    |> File.read!()
    |> String.split()
    |> Enum.map(&String.to_integer/1)
  end
end
