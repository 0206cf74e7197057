defmodule Leash.DetachTest do
  # Tests on_exit: :detach, adopt/2 and detached/0. Serial: the trees are found by a look at every
  # process.
  use Leash.Test.Case, async: false

  alias Leash.Test.{Name, Script}

  @moduletag timeout: 120_000

  setup do
    # Uses a run directory and names of its own, so that it does not find those of another suite.
    {:ok, dir: tmp_dir!(), name: String.to_atom(Name.unique("detach"))}
  end

  # The options of a worker that is to outlive its VM, its output, and its carrier.
  defp options(name, dir, what \\ :env_i) do
    carrier = new_carrier()
    file = Path.join(dir, "output-#{System.unique_integer([:positive])}")
    own = [name: name, on_exit: :detach, stdout: {:file, file}, stderr: :stdout]
    {Keyword.merge(command(what, carrier), own), carrier, file}
  end

  defp awaited(carrier, file) do
    said = fn ->
      with {:ok, text} <- File.read(file),
           [_all, pids] <- Regex.run(~r/^ready((?: \d+)*)\n/m, text),
           do: pids,
           else: (_not_yet -> nil)
    end

    assert_eventually(said, 10_000)

    known =
      for pid <- String.split(said.()), do: pid |> String.to_integer() |> Observer.identity()

    %{carrier: carrier, tree: known}
  end

  # Starts it in this VM.
  defp start(name, dir, more \\ []) do
    {what, more} = Keyword.pop(more, :what, :env_i)
    {options, carrier, file} = options(name, dir, what)
    {:ok, worker} = Worker.start_link(options ++ more)
    known(worker, awaited(carrier, file), options ++ more)
  end

  defp known(worker, tree, options) do
    info = Worker.info(worker)

    Map.merge(tree, %{
      worker: worker,
      os: Observer.identity(info.os_pid),
      shim: Observer.identity(info.shim_pid),
      options: options
    })
  end

  # Starts it in another VM.
  defp start_in(vm, name, dir, more \\ []) do
    {what, more} = Keyword.pop(more, :what, :env_i)
    {options, carrier, file} = options(name, dir, what)
    code = "{:ok, w} = Leash.Worker.start_link(#{inspect(options ++ more)}); Process.unlink(w); "
    %{os_pid: os, shim_pid: shim} = VM.eval(vm, code <> "Leash.Worker.info(w)")

    carrier
    |> awaited(file)
    |> Map.merge(%{os: Observer.identity(os), shim: Observer.identity(shim)})
  end

  defp kill(vm) do
    VM.signal(vm, "KILL")
    assert_eventually(fn -> not Observer.alive?(vm.identity) end)
  end

  defp listed(tree), do: Enum.find(Leash.Worker.detached(), &(&1.shim_pid == elem(tree.shim, 0)))

  test "88: a VM that is killed leaves it, no sweep ends it, and a later VM adopts and stops it",
       %{
         dir: dir,
         name: name
       } do
    vm = start_vm([{"normal", command(:env_i, other = new_carrier())}], run_dir: dir)
    tree = start_in(vm, name, dir)
    decoy = start_decoy("beside")

    # No process but the sweep would end what the worker beside it left.
    [shim] = VM.shims(vm)
    Observer.kill_together([vm.identity, shim | VM.wardens(vm)])
    assert Carrier.members(other) != []
    assert_alive(tree)

    next = start_vm([], run_dir: dir)
    assert_gone(other)
    assert_alive(tree)
    {:ok, report} = VM.eval(next, "Leash.sweep()")

    for process <- [tree.shim | tree.tree],
        do: assert(%{verdict: :outlives, action: :kept} = match_of(report, process))

    assert vm.run_id in Enum.map(report.runs, & &1.run_id)
    {:ok, report} = VM.eval(next, "Leash.kill_run(#{inspect(vm.run_id)})")
    assert %{verdict: :outlives} = match_of(report, tree.shim)
    assert_alive(tree)

    assert %{owner_alive?: false, worker: 2, run_id: run_id} = listed(tree)
    assert run_id == vm.run_id

    info = VM.eval(next, "{:ok, w} = Leash.Worker.adopt(#{inspect(name)}); Leash.Worker.info(w)")
    assert %{adopted?: true, run_id: ^run_id, worker: 2, state: :running, mark: :set} = info
    assert {info.os_pid, info.shim_pid} == {elem(tree.os, 0), elem(tree.shim, 0)}
    assert Path.basename(info.command) == "sh"
    assert DateTime.diff(DateTime.utc_now(), info.started_at) in 0..60

    pid = "hd(for %{label: #{inspect(inspect(name))}, pid: pid} <- Leash.list(), do: pid)"
    assert_alive(tree)
    assert {:ok, %Exit{} = exit} = VM.eval(next, "Leash.Worker.stop(#{pid})")
    assert %{cause: :stop, status: nil, signal: nil, os_pid: os_pid} = exit
    assert os_pid == elem(tree.os, 0)
    assert_gone(tree)
    assert listed(tree) == nil
    assert VM.eval(next, "Leash.Worker.adopt(#{inspect(name)})") == {:error, :not_found}
    assert_unharmed(decoy)
  end

  @tag :slow
  test "the next VM's own start takes it over instead of starting a second", %{
    dir: dir,
    name: name
  } do
    vm = start_vm([], run_dir: dir)
    tree = start_in(vm, name, dir)
    kill(vm)

    next = start_vm([], run_dir: dir)
    {again, carrier, _file} = options(name, dir)

    code =
      "{:ok, w} = Leash.Worker.start_link(#{inspect(again)}); " <>
        "{Leash.Worker.info(w), Leash.Worker.os_pid(#{inspect(name)}), Leash.Worker.write(w, \"x\")}"

    {info, os_pid, written} = VM.eval(next, code)
    assert %{adopted?: true, os_pid: ^os_pid} = info
    assert written == {:error, :not_piped}
    assert os_pid == elem(tree.os, 0)
    assert Carrier.members(carrier) == []

    # The takeover works once more, in turn with this VM.
    kill(next)
    assert_alive(tree)
    third = start_vm([], run_dir: dir)

    assert {:ok, _pid} =
             VM.eval(third, "Leash.Worker.adopt(#{inspect(inspect(name))}, group: :mine)")

    assert {:ok, [%{result: {:ok, %Exit{}}}]} = VM.eval(third, "Leash.stop_all(:mine)")
    assert_gone(tree)
  end

  test "VM and shim killed: the program is gone, and nothing that says it outlives is swept", %{
    dir: dir,
    name: name
  } do
    vm = start_vm([], run_dir: dir)
    tree = start_in(vm, name, dir)
    kill(vm)
    Observer.signal(tree.shim, "KILL")
    assert_eventually(fn -> not Observer.alive?(tree.os) end)
    left = Carrier.members(tree.carrier)
    assert left != []
    next = start_vm([], run_dir: dir)
    assert Carrier.members(tree.carrier) == left
    assert VM.eval(next, "Leash.Worker.adopt(#{inspect(name)})") == {:error, :not_found}
  end

  test "a supervisor's shutdown leaves it, and its next start takes it over", %{
    dir: dir,
    name: name
  } do
    {options, carrier, file} = options(name, dir)
    children = [{Worker, options ++ [stop: [sigterm: 60_000]]}]
    {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
    tree = known(name, awaited(carrier, file), options)
    refute Worker.info(name).adopted?
    number = Worker.info(name).worker

    began = System.monotonic_time(:millisecond)
    :ok = Supervisor.stop(supervisor)
    assert System.monotonic_time(:millisecond) - began < 1_000
    assert Process.whereis(name) == nil
    assert_alive(tree)
    assert [%{worker: ^number}] = for(it <- Leash.list(), it.os_pid == elem(tree.os, 0), do: it)

    {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
    assert %{adopted?: true, worker: ^number, os_pid: os_pid} = Worker.info(name)
    assert os_pid == elem(tree.os, 0)
    assert {:error, {:already_started, _pid}} = Leash.Worker.adopt(name)

    # A process that took it over leaves it unchanged.
    :ok = Supervisor.stop(supervisor)
    assert_alive(tree)
    {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
    assert %{adopted?: true, worker: ^number} = Worker.info(name)

    # A stop ends it, and the supervisor of a :permanent one starts it anew.
    pid = Process.whereis(name)
    assert {:ok, %Exit{cause: :kill}} = Worker.stop(name, kill: true)
    assert_gone(%{tree | carrier: new_carrier()})
    assert_eventually(fn -> Process.whereis(name) not in [nil, pid] end)
    assert_eventually(fn -> match?(%{adopted?: false}, Worker.info(name)) end)
    assert_eventually(fn -> Carrier.members(carrier) != [] end)
    :ok = Supervisor.stop(supervisor)
    assert Carrier.members(carrier) != []
    # Its process has let go of it, so no process sees how it ends.
    assert {:ok, [%{result: {:ok, :gone}}]} = Leash.stop_all(:all, deadline: 0)
    assert_gone(carrier)
  end

  test "a Worker that is killed leaves it, and the restart takes it over with its number", %{
    dir: dir,
    name: name
  } do
    {options, carrier, file} = options(name, dir)
    # A worker that was stopped on purpose is not restarted.
    child = Supervisor.child_spec({Worker, options}, restart: :transient)
    {:ok, supervisor} = Supervisor.start_link([child], strategy: :one_for_one)
    tree = known(name, awaited(carrier, file), options)
    %{worker: number} = Worker.info(name)

    for _time <- 1..3 do
      pid = Process.whereis(name)
      Process.exit(pid, :kill)
      assert_eventually(fn -> Process.whereis(name) not in [nil, pid] end)
      assert %{adopted?: true, worker: ^number} = Worker.info(name)
      assert_alive(tree)

      assert Process.alive?(supervisor)
    end

    assert {:ok, %Exit{cause: :stop}} = Worker.stop(name)
    assert_gone(tree)
  end

  test "the application's stop leaves it with its record, and its next start adopts it", %{
    dir: dir,
    name: name
  } do
    vm = start_vm([{"normal", command(:env_i, other = new_carrier())}], run_dir: dir)
    tree = start_in(vm, name, dir)
    record = Path.join(dir, vm.run_id <> ".json")
    assert VM.ask(vm, "app_stop") == ":ok"
    assert_gone(other)
    assert_alive(tree)
    assert File.exists?(record)
    {:ok, _apps} = VM.eval(vm, "Application.ensure_all_started(:leash)")
    assert_alive(tree)
    # The VM that started it lives, and asks itself.
    assert %{owner_alive?: true} = listed(tree)
    assert {:error, {:detached_elsewhere, %{owner_pid: owner}}} = Leash.Worker.adopt(name)
    assert owner == elem(vm.identity, 0)

    code = "{:ok, w} = Leash.Worker.adopt(#{inspect(name)}); Leash.Worker.stop(w)"
    assert {:ok, %Exit{cause: :stop}} = VM.eval(vm, code)
    assert_gone(tree)
    # Nothing is left of that run. Its record goes when its VM is gone as well.
    kill(vm)
    start_vm([], run_dir: dir)
    refute File.exists?(record)
  end

  test "a worker of a VM that lives is not given to another VM", %{dir: dir, name: name} do
    vm = start_vm([], run_dir: dir)
    tree = start_in(vm, name, dir)
    {options, carrier, _file} = options(name, dir)
    assert {:error, {:detached_elsewhere, elsewhere}} = Worker.start_link(options)
    assert elsewhere.owner_pid == elem(vm.identity, 0)
    assert elsewhere.os_pid == elem(tree.os, 0)
    assert {:error, {:detached_elsewhere, ^elsewhere}} = Leash.Worker.adopt(name)
    assert Carrier.members(carrier) == []
    assert_alive(tree)
    assert VM.eval(vm, "Leash.Worker.stop(#{inspect(name)}) |> elem(0)") == :ok
    assert_gone(tree)
  end

  test "two names are two workers, and each is stopped alone", %{dir: dir, name: name} do
    other = :"#{name}-2"
    [one, two] = [start(name, dir), start({:global, {other, ~c"x"}}, dir)]
    kill_process(one.worker)
    kill_process(two.worker)
    {:ok, pid} = Leash.Worker.adopt({:global, {other, ~c"x"}})
    assert {:ok, %Exit{}} = Worker.stop(pid)
    assert_gone(two)
    assert_alive(one)
    {:ok, pid} = Leash.Worker.adopt(inspect(name))
    assert {:ok, %Exit{}} = Worker.stop(pid)
    assert_gone(one)
  end

  defp kill_process(pid) do
    monitor = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, :process, _, :killed}, 1_000
  end

  # Starts a shim like a VM does, without a VM behind it.
  defp by_hand(arguments, prefix \\ "") do
    carrier = new_carrier()

    line =
      "#{prefix} #{Script.shim()} #{arguments} -- sh -c 'echo ready $$; exec sleep 90' &\nwait"

    {_port, _sh, [pid]} = Script.start(line, carrier)
    pid = String.to_integer(pid)
    {carrier, Observer.identity(pid), Observer.identity(Observer.parent(pid))}
  end

  @tag :slow
  test "several of one name are named, and none is touched", %{name: name} do
    text = inspect(name)
    rest = "'--name=#{text}' --on-hangup=detach"
    all = for number <- 1..2, do: by_hand("--run-id=ambig0#{number} --worker=#{number} #{rest}")
    workers = for {_carrier, {pid, _}, _shim} <- all, do: pid
    assert {:error, {:ambiguous, found}} = Leash.Worker.adopt(name)
    assert Enum.sort(found) == Enum.sort(workers)

    {options, carrier, _file} = options(name, tmp_dir!())
    assert {:error, {:ambiguous, _pids}} = Worker.start_link(options)
    assert Carrier.members(carrier) == []

    for {_carrier, worker, shim} <- all,
        do: assert(Observer.alive?(worker) and Observer.alive?(shim))

    # With one of them gone there is no doubt.
    [{_carrier, _worker, shim}, {_other, worker, _shim}] = all
    Observer.signal(shim, "TERM")
    assert_eventually(fn -> not Observer.alive?(shim) end)
    {:ok, pid} = Leash.Worker.adopt(name)
    assert Worker.os_pid(pid) == elem(worker, 0)
    assert {:ok, %Exit{}} = Worker.stop(pid)
    assert_eventually(fn -> not Observer.alive?(worker) end, 0)
  end

  test "what only looks like one is neither found nor signalled", %{name: name} do
    text = inspect(name)
    exact = ["--run-id=decoyaa", "--worker=1", "--name=#{text}", "--on-hangup=detach", "--", "x"]
    forged = [argv: ["/x/leash-shim" | exact], forge: true]

    decoys = [
      start_decoy("a grep for it", argv: ["grep", "--" | exact]),
      start_decoy("a process with all of its arguments", forged),
      start_decoy("one that is marked, too", [locks: outliving("decoyaa", 1)] ++ forged)
    ]

    for %{identity: {pid, _ticks}} <- tl(decoys),
        do: assert(["/x/leash-shim", "--run-id=decoyaa" | _rest] = Observer.argv(pid))

    shims = [
      by_hand("--run-id=decoyaa --worker=1 '--name=#{text}' --on-hangup=detach --no-mark"),
      by_hand("--run-id=decoyaa --worker=1 '--name=#{text}'"),
      by_hand("--run-id=decoyaa --worker=1 --linger=1 '--name=#{text}' --on-hangup=detach"),
      by_hand("--run-id=decoyaa '--name=#{text}' --on-hangup=detach"),
      # Its own mark names another worker.
      by_hand(
        "--run-id=decoyaa --worker=1 '--name=#{text}' --on-hangup=detach --no-mark",
        "prlimit --locks=#{outliving("decoyaa", 2)}"
      )
    ]

    assert Leash.Worker.adopt(name) == {:error, :not_found}
    refute Enum.any?(Leash.Worker.detached(), &(&1.name == text))

    if Decoys.root?() do
      {_carrier, worker, shim} =
        by_hand(
          "--run-id=decoyaa --worker=1 '--name=#{text}' --on-hangup=detach",
          "setpriv --reuid=65534 --regid=65534 --clear-groups"
        )

      assert Leash.Worker.adopt(name) == {:error, :not_found}
      assert Observer.alive?(worker) and Observer.alive?(shim)
    end

    for {_carrier, worker, shim} <- shims,
        do: assert(Observer.alive?(worker) and Observer.alive?(shim))

    Enum.each(decoys, &assert_unharmed/1)
  end

  # Returns the mark of a tree that outlives its VM.
  defp outliving(run_id, worker) do
    import Bitwise

    [soft, hard] =
      run_id |> Tag.locks(worker) |> String.split(":") |> Enum.map(&String.to_integer/1)

    "#{soft ||| 0x8000}:#{hard ||| 0x8000}"
  end

  # Cargo builds the command, and mix does not: LEASH_CLI names it.
  if is_nil(System.get_env("LEASH_CLI")), do: @tag(skip: "LEASH_CLI names no binary")

  test "the command ends it by the run's id only when it is asked to", %{dir: dir, name: name} do
    cli = fn args ->
      System.cmd(System.fetch_env!("LEASH_CLI"), ["--run-dir", dir | args], stderr_to_stdout: true)
    end

    said = Path.join(dir, "said")
    line = "trap 'echo bye > #{said}; exit 0' TERM; echo ready $$; while :; do sleep 0.05; done"
    vm = start_vm([], run_dir: dir)
    tree = start_in(vm, name, dir, what: {:sh, line}, stop: [sigterm: 5_000])
    assert {_refused, 3} = cli.(["kill", vm.run_id, "--outliving"])
    kill(vm)
    for args <- [["sweep"], ["kill", vm.run_id]], do: assert({_kept, 0} = cli.(args))
    assert_alive(tree)
    assert {_ended, 0} = cli.(["kill", vm.run_id, "--outliving"])
    assert_gone(tree)
    # The shim ends it by its own ladder.
    assert File.read!(said) == "bye\n"
  end

  test "an adopted tree whose shim is stopped ends all the same", %{dir: dir, name: name} do
    tree = start(name, dir)
    kill_process(tree.worker)
    {:ok, pid} = Leash.Worker.adopt(name)
    Observer.signal(tree.shim, "STOP")
    assert_eventually(fn -> Observer.state(elem(tree.shim, 0)) == "T" end)
    assert {:ok, %Exit{}} = Worker.stop(pid)
    assert_gone(tree)
  end

  @tag needs: :root
  @tag :slow
  test "a shim that does not come to work is killed past its ladder, and its tree hunted", %{
    dir: dir,
    name: name
  } do
    tree = start(name, dir)
    kill_process(tree.worker)
    {:ok, pid} = Leash.Worker.adopt(name)
    {shim, _ticks} = tree.shim
    # A shim that is traced and stopped takes no signal but KILL (ptrace(2), PTRACE_ATTACH).
    attach =
      "import ctypes, time; assert ctypes.CDLL(None).ptrace(16, #{shim}, 0, 0) == 0; " <>
        "print(\"ready\", flush=True); time.sleep(60)"

    {_port, _tracer, []} = Script.start("exec python3 -c '#{attach}'", new_carrier())
    assert_eventually(fn -> Observer.state(shim) == "t" end)
    stop = Task.async(fn -> Worker.stop(pid) end)
    assert {:ok, {:ok, %Exit{cause: :kill}}} = Task.yield(stop, 10_000)
    assert_gone(tree)
  end

  test "an adopted tree whose shim is killed is hunted, beside what was kept under the same run",
       %{
         dir: dir,
         name: name
       } do
    tree = start(name, dir)
    neighbour = start(:"#{name}-2", dir)
    kill_process(tree.worker)
    {:ok, pid} = Leash.Worker.adopt(name)
    monitor = Process.monitor(pid)
    Observer.signal(tree.shim, "KILL")
    assert_receive {:DOWN, ^monitor, :process, ^pid, :normal}, 5_000
    assert_gone(tree)
    assert_alive(neighbour)
    assert {:ok, %Exit{}} = Worker.stop(neighbour.worker)
  end

  test "of another run, too: its marks alone say what belongs to it", %{dir: dir, name: name} do
    vm = start_vm([], run_dir: dir)
    tree = start_in(vm, name, dir)
    beside = start_in(vm, :"#{name}-2", dir)
    kill(vm)
    {:ok, pid} = Leash.Worker.adopt(name)
    monitor = Process.monitor(pid)
    Observer.signal(tree.shim, "KILL")
    assert_receive {:DOWN, ^monitor, :process, ^pid, :normal}, 5_000
    assert_gone(tree)
    assert_alive(beside)
    {:ok, pid} = Leash.Worker.adopt(:"#{name}-2")
    assert {:ok, %Exit{}} = Worker.stop(pid, kill: true)
    assert_gone(beside)
  end

  test "while this VM lives, a killed shim takes its whole tree along", %{dir: dir, name: name} do
    tree = start(name, dir)
    %{worker: worker} = tree
    Observer.signal(tree.shim, "KILL")
    assert_receive {:EXIT, ^worker, :shim_died}, 5_000
    assert_gone(tree)

    # The Worker is gone, so the Reaper sees it.
    tree = start(name, dir)
    kill_process(tree.worker)
    assert_alive(tree)
    Observer.signal(tree.shim, "KILL")
    assert_gone(tree, 5_000)
  end

  test "a process that lost its name, its environment and its parent still ends with it", %{
    dir: dir,
    name: name
  } do
    tree = start(name, dir, what: :daemon)
    refute File.read!("/proc/#{elem(tree.os, 0)}/environ") =~ "LEASH_RUN="
    assert {:ok, %Exit{cause: :stop}} = Worker.stop(tree.worker)
    assert_gone(tree)
  end

  test "its own end is an end, whichever process holds it", %{dir: dir, name: name} do
    line = {:sh, "echo ready $$; exec sleep 90"}
    tree = start(name, dir, what: line)
    %{worker: worker} = tree
    Observer.signal(tree.os, "TERM")
    assert_receive {:EXIT, ^worker, {:signal, :sigterm}}, 5_000
    assert_gone(tree)

    # Only the Reaper holds it, so its number is free again afterwards.
    tree = start(name, dir, what: line)
    kill_process(tree.worker)
    Observer.signal(tree.os, "TERM")
    assert_gone(tree, 5_000)
    assert_eventually(fn -> not Enum.any?(Leash.list(), &(&1.label == inspect(name))) end)

    # The process that adopted it does not report how it ends.
    tree = start(name, dir, what: line)
    kill_process(tree.worker)
    {:ok, pid} = Leash.Worker.adopt(name)
    monitor = Process.monitor(pid)
    Observer.signal(tree.os, "TERM")
    assert_receive {:DOWN, ^monitor, :process, ^pid, :normal}, 5_000
    assert_gone(tree)
  end

  test "stop_all ends an unheld tree by its own ladder, and says so", %{dir: dir, name: name} do
    said = Path.join(dir, "said")
    line = "trap 'echo bye > #{said}; exit 0' TERM; echo ready $$; while :; do sleep 0.05; done"
    tree = start(name, dir, what: {:sh, line}, group: {:pool, name}, stop: [sigterm: 5_000])
    bystander = start(:"#{name}-2", dir, group: :other)
    kill_process(tree.worker)
    assert {:ok, [stopped]} = Leash.stop_all({:pool, name})
    assert stopped.result == {:ok, :gone}
    assert_gone(tree)
    assert File.read!(said) == "bye\n"
    assert_alive(bystander)

    # For an adopted tree, stop_all asks the process. If that does not answer, it tells the shim.
    kill_process(bystander.worker)
    {:ok, pid} = Leash.Worker.adopt(:"#{name}-2", group: :mine)
    :ok = :sys.suspend(pid)
    assert {:ok, [%{result: {:ok, :gone}}]} = Leash.stop_all(:mine, deadline: 1_000)
    assert_gone(bystander)
    Process.exit(pid, :kill)
  end

  test "a process that is killed while its tree is being adopted leaves it to the next", %{
    dir: dir,
    name: name
  } do
    vm = start_vm([], run_dir: dir)
    tree = start_in(vm, name, dir)
    kill(vm)

    for _time <- 1..3 do
      {:ok, pid} = Leash.Worker.adopt(name)
      assert {:error, {:already_started, ^pid}} = Leash.Worker.adopt(name)
      kill_process(pid)
      assert_alive(tree)
    end

    {:ok, pid} = Leash.Worker.adopt(name)
    assert [:ok, :ok] = for({result, _} <- stop_twice(pid), do: result)
    assert_gone(tree)
  end

  defp stop_twice(pid),
    do: 1..2 |> Enum.map(fn _ -> Task.async(fn -> Worker.stop(pid) end) end) |> Task.await_many()

  test "an ending under way is seen to its end when its process is shut down", %{
    dir: dir,
    name: name
  } do
    line = {:sh, "trap '' TERM; echo ready $$; while :; do sleep 0.05; done"}
    tree = start(name, dir, what: line, stop: [sigterm: 400])
    kill_process(tree.worker)
    {:ok, pid} = Leash.Worker.adopt(name)
    stop = Task.async(fn -> Worker.stop(pid) end)
    assert_eventually(fn -> match?([%{tree: :ending}], mine(name)) end)
    spawn(fn -> GenServer.stop(pid, :shutdown) end)
    assert {:ok, %Exit{cause: :stop}} = Task.await(stop)
    assert_gone(tree)
  end

  defp mine(name), do: for(it <- Leash.list(), it.label == inspect(name), do: it)

  test "a crash of the Reaper leaves it", %{dir: dir, name: name} do
    [held, left] = [start(name, dir), start(:"#{name}-2", dir)]
    kill_process(left.worker)
    reaper = Process.whereis(Leash.Reaper)
    kill_process(reaper)
    assert_eventually(fn -> Process.whereis(Leash.Reaper) not in [nil, reaper] end)
    # An answer means that it has looked at every tree.
    {:ok, []} = Leash.stop_all(:nobody)
    for tree <- [held, left], do: assert_alive(tree)
    assert {:ok, %Exit{}} = Worker.stop(held.worker)
    {:ok, pid} = Leash.Worker.adopt(:"#{name}-2")
    assert {:ok, %Exit{}} = Worker.stop(pid)
    for tree <- [held, left], do: assert_gone(tree)
  end

  test "a start that is not finished leaves nothing", %{dir: dir, name: name} do
    {options, carrier, _file} = options(name, dir)
    options = options ++ [ready: {:tcp, 1}, ready_timeout: 300]
    assert {:error, :ready_timeout} = Worker.start_link(options)
    assert_gone(carrier)
    assert Leash.Worker.adopt(name) == {:error, :not_found}
    assert {:error, {:exec, :enoexec}} = Worker.start_link(unexecutable(options, dir))
    assert Leash.Worker.adopt(name) == {:error, :not_found}
  end

  defp unexecutable(options, dir) do
    program = Path.join(dir, "program")
    File.write!(program, <<0, 1, 2>>)
    File.chmod!(program, 0o755)
    Keyword.merge(options, command: program, args: [])
  end

  test "nothing of the VM is kept open", %{dir: dir, name: name} do
    tree = start(name, dir)
    {shim, _ticks} = tree.shim
    assert File.read_link!("/proc/#{shim}/fd/2") == "/dev/null"
    assert File.read_link!("/proc/#{shim}/cwd") == "/"
    assert {:ok, %Exit{}} = Worker.stop(tree.worker)
  end

  test "each option that would tie it to its VM is refused by name", %{dir: dir, name: name} do
    good = [command: "true", name: name, on_exit: :detach, stdout: :null, stderr: :stdout]

    for {change, key} <- [
          {[name: nil], :name},
          {[name: String.to_atom(String.duplicate("n", 200))], :name},
          {[stdout: :output], :stdout},
          {[stderr: :output], :stderr},
          {[stdin: :pipe], :stdin},
          {[mark: false], :mark},
          {[ready: ~r/x/], :ready}
        ] do
      assert %Leash.OptionsError{key: ^key} =
               error = catch_error(Worker.start_link(Keyword.merge(good, change)))

      assert Exception.message(error) =~ "on_exit: :detach"
    end

    for call <- [
          fn -> Leash.cmd("true", [], on_exit: :detach) end,
          fn -> Enum.to_list(Leash.stream!("true", [], on_exit: :detach)) end
        ],
        do: assert(%{key: :on_exit} = assert_raise(Leash.OptionsError, call))

    assert %{key: :name} = catch_error(Leash.Worker.adopt(nil))
    assert %{key: :name} = catch_error(Leash.Worker.adopt(17))
    assert %{key: :group} = catch_error(Leash.Worker.adopt(name, group: :all))
    assert %{key: nil} = catch_error(Leash.Worker.adopt(name, force: true))
    assert Leash.Worker.adopt(name) == {:error, :not_found}
    assert File.ls!(dir) == []
  end
end
