defmodule Demo.VM do
  # Runs the application in a VM of its own, as an operating system process. The demo kills it
  # like any other process.
  @moduledoc false

  alias Demo.Outside

  defstruct [:port, :pid, :run, :shim, :log, :cgroup, :lines]

  @boot_ms 30_000

  @doc "Starts the application with these workers and waits until they are up."
  def start(workers, directory) do
    log = Path.join(directory, "stderr-#{System.unique_integer([:positive])}")
    cgroup = Outside.make_cgroup()

    # The group first: what the VM starts is in it from birth.
    script = "[ -z \"$1\" ] || echo $$ > \"$1\"/cgroup.procs; shift; exec \"$@\""
    mix = ~w(mix run --no-compile --no-halt examples/demo/pool.exs) ++ [log | workers]

    port =
      Port.open({:spawn_executable, System.find_executable("sh")}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        line: 4_000,
        args: ["-c", script, "sh", cgroup || "" | mix],
        env: [{~c"LEASH_RUN_DIR", String.to_charlist(Path.join(directory, "runs"))}]
      ])

    wait_until_up(%__MODULE__{port: port, log: log, cgroup: cgroup, lines: []})
  end

  defp wait_until_up(%{port: port} = vm) do
    receive do
      {^port, {:data, {_eol, "UP " <> rest}}} ->
        [pid, run, shim] = String.split(rest, " ", parts: 3)
        %{vm | pid: String.to_integer(pid), run: run, shim: shim, lines: Enum.reverse(vm.lines)}

      {^port, {:data, {_eol, line}}} ->
        wait_until_up(%{vm | lines: [line | vm.lines]})

      {^port, {:exit_status, status}} ->
        raise "the VM ended with status #{status}:\n" <> Enum.join(Enum.reverse(vm.lines), "\n")
    after
      @boot_ms -> raise "the VM is not up:\n" <> Enum.join(Enum.reverse(vm.lines), "\n")
    end
  end

  @doc "Returns what a sweep of this VM would do now, as lines."
  def report(%{port: port}) do
    Port.command(port, "report\n")
    collect_report(port, [])
  end

  defp collect_report(port, lines) do
    receive do
      {^port, {:data, {_eol, "REPORTED"}}} -> Enum.reverse(lines)
      {^port, {:data, {_eol, "REPORT " <> line}}} -> collect_report(port, [line | lines])
      {^port, {:data, {_eol, _other}}} -> collect_report(port, lines)
    after
      10_000 -> raise "no report"
    end
  end

  @doc "Returns the processes of its workers: those below the VM with its mark."
  def workers(vm), do: Enum.filter(Outside.processes(), &(&1.run == vm.run))

  @doc """
  Returns the living processes of a VM, by each way to see them from outside. These are the group,
  if there is one, the mark, the inherited file, and the identities of the processes that were
  `known` before.
  """
  def left(vm, known) do
    processes = Outside.processes()

    %{
      cgroup: vm.cgroup && in_cgroup(vm.cgroup, processes),
      mark: Enum.filter(processes, &(&1.run == vm.run)),
      file: Enum.filter(processes, &Outside.holds?(&1, vm.log)),
      known: Enum.filter(known, &Outside.alive?/1)
    }
  end

  defp in_cgroup(cgroup, processes) do
    members = Outside.members(cgroup)
    Enum.filter(processes, &(&1.pid in members))
  end

  @doc "Returns all that `left/2` saw, each process once."
  def union(left) do
    (List.wrap(left.cgroup) ++ left.mark ++ left.file ++ left.known)
    |> Enum.uniq_by(&{&1.pid, &1.start})
    |> Enum.sort_by(& &1.pid)
  end
end
