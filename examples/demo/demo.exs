# Leash's main job, seen from outside. The demo kills a VM with a pool of workers in two ways and
# counts what is left. It uses nothing of Leash for that. It ends with status 1 if a count is
# wrong.

Code.require_file("outside.exs", __DIR__)
Code.require_file("vm.exs", __DIR__)

defmodule Demo do
  alias Demo.{Outside, VM}

  @workers ~w(embedder pipeline daemon stubborn)
  @patience_ms 10_000

  def run do
    directory = Path.join(System.tmp_dir!(), "leash-demo-#{System.pid()}")
    File.mkdir_p!(directory)

    try do
      play(directory)
    after
      File.rm_rf!(directory)
    end
  end

  defp play(directory) do
    heading("Bystanders, which must live through all of it")
    # Leaves out the pipeline, whose `sleep 1` comes and goes by itself.
    neighbour = VM.start(["embedder"], directory)

    say(
      "another application of the same user, VM #{neighbour.pid}, run #{neighbour.run}, one worker"
    )

    by_hand = decoy(neighbour.shim, ["--run-id=d3c0y00", "--", "sleep", "100"])
    say("a shim started by hand, pid #{by_hand.pid}, with its worker")
    wait_until(fn -> length(below([by_hand.pid])) == 2 end)
    bystanders = below([neighbour.pid, by_hand.pid])

    heading("1. A supervised pool of four workers, and its VM is killed")
    vm = VM.start(@workers, directory)
    grep = grep(vm.run)
    known = show(vm)
    bystanders = [grep | bystanders]
    signal("KILL", [vm.pid])
    say("kill -KILL #{vm.pid}, the VM")
    killed = wait_for_none(vm, known)
    alive = bystanders_alive(bystanders)

    heading("2. The same, and VM and shims are killed together")
    vm = VM.start(@workers, directory)
    bystanders = [grep(vm.run) | bystanders]
    known = show(vm)
    shims = for process <- known, process.command =~ "leash-shim --run-id=", do: process.pid
    # All are stopped first. Otherwise a process that is killed a moment later sees the others go
    # and ends their trees.
    signal("STOP", [vm.pid | shims])
    signal("KILL", [vm.pid | shims])
    say("kill -KILL #{Enum.join([vm.pid | shims], " ")}, the VM and its #{length(shims)} shims")
    ended = Enum.filter(known, &(&1.pid in shims))

    wait_until(fn ->
      not File.exists?("/proc/#{vm.pid}/exe") and not Enum.any?(ended, &Outside.alive?/1)
    end)

    orphans = VM.union(VM.left(vm, known))
    say("orphans, which nobody is left to end: #{length(orphans)}")
    Enum.each(orphans, &say("  #{&1.pid} #{shorten(&1.command)}"))

    say("what a sweep would do, asked of the other application (it only reports):")
    Enum.each(VM.report(neighbour), &say("  " <> shorten(&1)))

    heading("3. The next start sweeps them before anything else starts")
    next = VM.start(["stubborn"], directory)
    Enum.each(next.lines, &(&1 == "" or say(&1)))
    swept = wait_for_none(vm, orphans)
    alive = alive and bystanders_alive(bystanders)

    heading("4. An orderly end")
    known = VM.workers(next)
    signal("TERM", [next.pid])
    say("kill -TERM #{next.pid}, the VM of the next start")
    ended = wait_for_none(next, known)
    signal("TERM", [neighbour.pid, by_hand.pid])
    say("the bystanders are ended as well")
    cleared = wait_for_none(neighbour, bystanders -- greps(bystanders))

    verdict(
      "no process left after the VM was killed": killed,
      "orphans to be swept after VM and shims were killed (some had to be)": orphans != [],
      "none of them left after the next start": swept,
      "every bystander lived": alive,
      "none left after an orderly end": ended and cleared
    )
  end

  # An operator's search for the run. The run's id in its arguments does not make a process a
  # worker.
  defp grep(run), do: Map.put(decoy("grep", ["--", "--run-id=#{run}"]), :grep, true)

  defp greps(bystanders), do: Enum.filter(bystanders, &Map.has_key?(&1, :grep))

  # Its stdin is a pipe without a writer, so it waits until this program ends.
  defp decoy(program, args) do
    path = System.find_executable(program)
    port = Port.open({:spawn_executable, path}, [:binary, :exit_status, args: args])
    {:os_pid, pid} = Port.info(port, :os_pid)
    # A process that was just forked still has the arguments of its parent.
    wait_until(fn -> File.read!("/proc/#{pid}/cmdline") |> String.starts_with?(path) end)
    Enum.find(Outside.processes(), &(&1.pid == pid)) || raise "#{program} did not start"
  end

  defp wait_until(condition) do
    unless condition.() do
      Process.sleep(2)
      wait_until(condition)
    end
  end

  defp below(roots) do
    processes = Outside.processes()
    own = Enum.filter(processes, &(&1.pid in roots))
    own ++ Enum.flat_map(roots, &Enum.map(Outside.tree(processes, &1), fn {_depth, p} -> p end))
  end

  defp show(vm) do
    say("VM #{vm.pid}, run #{vm.run}")

    tree = Outside.tree(Outside.processes(), vm.pid)
    Enum.each(tree, fn {depth, p} -> say("  #{indent(depth)}#{p.pid} #{shorten(p.command)}") end)

    known = VM.workers(vm)
    say("#{length(known)} processes carry its mark, #{counted_by(vm)}")
    known
  end

  defp counted_by(%{cgroup: nil}), do: "no control group can be made here to count them by"
  defp counted_by(%{cgroup: _path}), do: "and its control group is watched as well"

  # Waits, and prints what was left at the end and when nothing was left.
  defp wait_for_none(vm, known, began \\ now()) do
    left = VM.left(vm, known)
    took = now() - began

    cond do
      VM.union(left) == [] ->
        say("left after #{took} ms: #{counts(left, known)}")
        if vm.cgroup, do: File.rmdir(vm.cgroup)
        true

      took > @patience_ms ->
        say("STILL LEFT after #{took} ms: #{counts(left, known)}")
        Enum.each(VM.union(left), &say("  #{&1.pid} #{shorten(&1.command)}"))
        false

      true ->
        Process.sleep(5)
        wait_for_none(vm, known, began)
    end
  end

  defp counts(left, known) do
    [
      left.cgroup && "#{length(left.cgroup)} in its control group",
      "#{length(left.mark)} with its mark",
      "#{length(left.file)} with its file open",
      "#{length(left.known)} of the #{length(known)} known by pid and start time"
    ]
    |> Enum.filter(& &1)
    |> Enum.join(", ")
  end

  defp bystanders_alive(bystanders) do
    {alive, dead} = Enum.split_with(bystanders, &Outside.alive?/1)
    say("bystanders alive: #{length(alive)} of #{length(bystanders)}")
    Enum.each(dead, &say("  DEAD: #{&1.pid} #{shorten(&1.command)}"))
    dead == []
  end

  defp verdict(claims) do
    heading("Summary")
    for {claim, holds} <- claims, do: say("#{if holds, do: "ok    ", else: "WRONG "} #{claim}")
    if Enum.all?(claims, fn {_claim, holds} -> holds end), do: :ok, else: :wrong
  end

  defp signal(name, pids) do
    {_output, 0} = System.cmd("kill", ["-#{name}" | Enum.map(pids, &Integer.to_string/1)])
  end

  defp now, do: System.monotonic_time(:millisecond)
  defp indent(depth), do: String.duplicate("  ", depth)
  defp heading(text), do: IO.puts("\n#{text}")
  defp say(text), do: IO.puts("   #{text}")

  defp shorten(command) do
    # Leaves out a shim's own options.
    command =
      Regex.replace(~r/(leash-shim --run-id=\w+( --worker=\d+)?) .*? -- /, command, "\\1 … -- ")

    command = Regex.replace(~r{(^|\s)/\S*/}, command, "\\1")
    if String.length(command) > 84, do: String.slice(command, 0, 83) <> "…", else: command
  end
end

if Demo.run() == :wrong, do: System.halt(1)
