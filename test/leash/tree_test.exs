defmodule Leash.TreeTest do
  use Leash.Test.Case, async: false

  alias Leash.TreeView

  setup do
    nothing_is_listed_after()
  end

  # A process that has just woken up counts as asleep.
  defp lines(which) do
    text = Regex.replace(~r/(─ \d+) [RD] /, Leash.tree(which), "\\1 S ")
    String.split(text, "\n", trim: true)
  end

  test "a program whose name is no text is drawn as text" do
    program = Path.join(tmp_dir!(), "gr\xFCn\e[2J")
    File.write!(program, "#!/bin/sh\necho ready $$; read x")
    File.chmod!(program, 0o755)

    tree =
      start_tree(:plain, command: program, args: [], group: "a\e[2Jb", stdin: :pipe, ready: nil)

    for which <- [:all, tree.worker] do
      drawn = Leash.tree(which)
      assert String.valid?(drawn)
      refute drawn =~ ~r/(?!\n)[[:cntrl:]]/u
      assert drawn =~ "gr\uFFFDn␛[2J in \"a\\e[2Jb\""
    end

    assert {:ok, _} = Worker.stop(tree.worker)
  end

  test "processes stand below their parents, and workers below the run" do
    tree = start_tree({:sh, "sleep 60 & sh -c 'sleep 61; :' & echo ready $$; wait"}, group: :pool)
    {os, _} = tree.os
    assert_eventually(fn -> length(Carrier.members(tree.carrier)) == 4 end)
    other = start_tree({:sh, "echo ready $$; exec sleep 62"}, group: {:tenant, 7})
    {other_os, _} = other.os
    assert_eventually(fn -> command(other_os) == "sleep 62" end)
    # All of them sleep: the picture shows their states.
    assert_eventually(fn ->
      Enum.all?(
        Carrier.members(tree.carrier) ++ [other.os],
        &(Observer.state(elem(&1, 0)) == "S")
      )
    end)

    numbers = ~r/ \[\d+[BKM], cpu \d+\.\d\ds, \d+s\]/
    plain = for line <- lines(:all), do: Regex.replace(numbers, line, "")

    [a, b, c] =
      for command <- ["sleep 60", "sh -c sleep 61; :", "sleep 61"], do: pid_of(tree, command)

    [first, second] = Enum.map([tree, other], &Leash.Tree.info(&1.worker).worker)

    assert [head, one | processes] = plain
    assert head =~ ~r/^#{Leash.run_id()}  owner #{System.pid()}, 2 workers, 5 processes, \d+M$/

    assert one =~
             ~r/^├─ worker #{first} sh in :pool \[4 processes, \d+[KM], cpu \d\.\d\ds, \d+s\]$/

    assert [shell, _a, _b, _c, two, _last] = processes
    assert String.starts_with?(shell, "│  └─ #{os} S ") and shell =~ "sh -c"
    assert two =~ ~r/^└─ worker #{second} sh in {:tenant, 7} \[1 process, /

    assert processes -- [shell, two] == [
             "│     ├─ #{a} S sleep 60",
             "│     └─ #{b} S sh -c sleep 61; :",
             "│        └─ #{c} S sleep 61",
             "   └─ #{other_os} S sleep 62"
           ]

    # Shows each process that the kernel knows, once.
    for {pid, _} <- Carrier.members(tree.carrier) ++ Carrier.members(other.carrier),
        do: assert(length(Enum.filter(plain, &(&1 =~ "─ #{pid} "))) == 1)

    for which <- [:pool, tree.worker, first] do
      assert [_head, _worker, _, _, _, _] = lines(which)
      assert Leash.tree(which) =~ "1 worker, 4 processes"
    end

    assert [_head, _worker, _process] = lines({:tenant, 7})
    assert [head] = lines(:nobody)
    assert head =~ "0 workers, 0 processes, 0B"
    for each <- [tree, other], do: Worker.stop(each.worker)
  end

  defp pid_of(tree, command) do
    [pid] = for {pid, _} <- Carrier.members(tree.carrier), command(pid) == command, do: pid
    pid
  end

  defp command(pid) do
    line = File.read!("/proc/#{pid}/cmdline")
    line |> String.trim_trailing("\0") |> String.replace("\0", " ")
  end

  test "what ended before and what ends now is said" do
    name = __MODULE__.Named
    {:error, {:exited, _}} = Worker.start_link(shell: "exit 4", name: name, ready: ~r/never/)
    tree = start_tree(:ignores_term, name: name, stop: [sigterm: 1_000])

    assert Leash.tree(name) =~
             ~r/worker \d+ Leash.TreeTest.Named \[.*, last exit \ds ago: {:exited, /

    test = self()
    spawn_link(fn -> send(test, Worker.stop(tree.worker)) end)
    assert_eventually(fn -> Leash.tree(name) =~ ", ending, last exit" end)
    assert_receive {:ok, %Exit{step: :sigkill}}, 5_000
  end

  test "nothing that others write controls the terminal" do
    tree = start_tree({:sh, "printf 'ready\\n'; exec sleep 60 #; \e[2J"}, group: "a\e[31m\nb")
    program = Path.join(tmp_dir!(), "\e[31mred\nsleep")
    File.ln_s!(System.find_executable("sleep"), program)
    {:ok, odd} = Worker.start_link(command: program, args: ["60"])
    assert_eventually(fn -> Leash.tree() =~ "[31mred" end)
    text = Leash.tree()
    refute text =~ "\e"
    assert length(String.split(text, "\n", trim: true)) == 5
    for worker <- [tree.worker, odd], do: Worker.stop(worker)
  end

  test "a long chain is drawn, each of it once" do
    tree = start_tree([:chain, 60])
    lines = lines(:all)
    assert length(lines) == 2 + length(Carrier.members(tree.carrier))

    for {pid, _} <- Carrier.members(tree.carrier),
        do: assert(Enum.any?(lines, &(&1 =~ "─ #{pid} S ")))

    # Past some depth the chain goes on below itself.
    indents = for line <- lines, do: line |> String.split("─ ") |> hd() |> String.length()
    assert Enum.max(indents) in 90..110
    Worker.stop(tree.worker)
  end

  test "without a run it says so" do
    run_dir = Leash.Test.Decoys.run_dir()
    vm = start_vm([], run_dir: run_dir)
    assert VM.eval(vm, "Application.stop(:leash); Leash.tree()") =~ "not started"
    assert VM.eval(vm, "{Leash.list(), Leash.Tree.info(1)}") == {[], nil}
  end

  test "ages and sizes are short" do
    ages =
      for ms <- [0, 59_999, 60_000, 3_599_000, 3_600_000, 86_399_000, 86_400_000],
          do: TreeView.age(ms)

    assert ages == ~w(0s 59s 1m00s 59m59s 1h00m 23h59m 1d00h)

    sizes =
      for bytes <- [0, 1023, 1024, 26_214_400, 3_221_225_472, 2 ** 60],
          do: TreeView.size(bytes)

    assert sizes == ~w(0B 1023B 1K 25M 3G 1048576T)
  end
end
