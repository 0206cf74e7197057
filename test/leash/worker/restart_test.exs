defmodule Leash.Worker.RestartTest do
  use Leash.Test.Case, async: false

  alias Leash.Test.{Name, Ports}

  setup do
    nothing_is_listed_after()
    %{decoy: start_decoy("beside the restarts"), name: :"#{Name.unique("restarted")}"}
  end

  defp child(line, carrier, options),
    do: {Worker, command({:sh, line}, carrier) ++ options}

  defp supervise(child) do
    {:ok, supervisor} = Supervisor.start_link([child], strategy: :one_for_one, max_restarts: 0)
    supervisor
  end

  test "name, pid and supervisor see nothing of it, and the options are the same ones", %{
    decoy: decoy,
    name: name
  } do
    carrier = new_carrier()
    line = "echo up $MARKER; cat; sleep 60"

    options = [
      name: name,
      env: %{"MARKER" => "of the environment"},
      on_output: self(),
      stdin: :pipe,
      health: [check: fn -> true end, every: 10],
      ready: ~r/up of the environment/
    ]

    supervisor = supervise(child(line, carrier, options))
    worker = Process.whereis(name)
    before = Worker.info(name)
    old = Observer.identity(before.os_pid)

    assert {:ok, %Exit{cause: :stop}} = Worker.restart(name)
    refute Observer.alive?(old)
    assert Process.whereis(name) == worker
    now = Worker.info(name)
    assert now.os_pid != before.os_pid and now.worker != before.worker
    assert Observer.alive?(Observer.identity(now.os_pid))
    assert [%{worker: number, last_exit: %{reason: :restart}}] = Leash.list()
    assert number == now.worker

    # Its stdin is the new program's.
    assert Worker.write(name, "hello") == :ok
    assert_receive {:leash_output, ^worker, :stdout, "hello"}, 5_000

    # Processes of the old life are gone.
    assert_eventually(fn ->
      {:links, links} = Process.info(worker, :links)

      length(links) == 5
    end)

    :ok = Supervisor.stop(supervisor)
    assert_gone(carrier)
    assert_unharmed(decoy)
  end

  test "many restarts leave no rows, processes, monitors or descriptors", %{decoy: decoy} do
    tree = start_tree(:plain)
    worker = tree.worker
    keys = [:links, :monitors, :message_queue_len]
    before = Process.info(worker, keys)
    files = fn -> length(File.ls!("/proc/self/fd")) end
    count = files.() + 1
    for _ <- 1..20, do: assert({:ok, %Exit{}} = Worker.restart(worker))
    assert Enum.map(Process.info(worker, keys), &size/1) == Enum.map(before, &size/1)
    # Garbage may hold a descriptor in any process that has read the table.
    collect = fn -> Enum.each(Process.list(), &:erlang.garbage_collect/1) end
    assert_eventually(fn -> collect.() && files.() <= count end)
    assert [_one] = Leash.list(usage: false)
    assert_eventually(fn -> length(Leash.Registry.all()) == 1 end)
    assert {:ok, _exit} = Worker.stop(worker)
    assert_gone(tree)
    assert_unharmed(decoy)
  end

  defp size({_key, list}) when is_list(list), do: length(list)
  defp size({_key, number}), do: number

  test "several callers get one restart, and a stop is stronger", %{decoy: decoy} do
    tree = start_tree({:sh, "trap '' TERM; echo ready $$; while :; do sleep 1; done"})
    worker = tree.worker
    tasks = for _ <- 1..3, do: Task.async(fn -> Worker.restart(worker) end)
    assert [{:ok, exit}, {:ok, exit}, {:ok, exit}] = Task.await_many(tasks)

    task = Task.async(fn -> Worker.restart(worker) end)
    assert_eventually(fn -> Worker.info(worker).state == :ending end)
    assert {:ok, %Exit{}} = Worker.stop(worker)
    assert Task.await(task) == {:error, :stopping}
    assert_receive {:EXIT, ^worker, :normal}, 5_000
    assert_gone(tree)
    assert_unharmed(decoy)
  end

  test "while the new program is not ready, a stop and info are answered", %{decoy: decoy} do
    {carrier, gate} = {new_carrier(), Path.join(tmp_dir!(), "gate")}
    File.touch!(gate)
    ready = fn -> File.exists?(gate) end
    options = [ready: ready, ready_timeout: 60_000]
    {:ok, worker} = Worker.start_link(command({:sh, "exec sleep 60"}, carrier) ++ options)
    File.rm!(gate)
    task = Task.async(fn -> Worker.restart(worker) end)
    old = Worker.info(worker).worker
    assert_eventually(fn -> match?(%{worker: number} when number != old, Worker.info(worker)) end)
    assert {:ok, %Exit{}} = Worker.stop(worker)
    assert Task.await(task) == {:error, :stopping}
    assert_receive {:EXIT, ^worker, :normal}, 5_000
    assert_gone(carrier)
    assert_unharmed(decoy)
  end

  test "a program that cannot be started again ends the process with that reason" do
    {carrier, dir} = {new_carrier(), tmp_dir!()}
    program = Path.join(dir, "program")
    File.write!(program, "#!/bin/sh\n" <> Carrier.enter(carrier) <> "exec sleep 60\n")
    File.chmod!(program, 0o700)
    {:ok, worker} = Worker.start_link(command: program)
    assert_eventually(fn -> Carrier.members(carrier) != [] end)
    File.rm!(program)
    assert Worker.restart(worker) == {:error, {:exec, :enoent}}
    assert_receive {:EXIT, ^worker, {:exec, :enoent}}, 5_000
    assert_gone(carrier)
  end

  test "a supervisor that shuts down while the program starts is not held up", %{name: name} do
    {carrier, gate} = {new_carrier(), Path.join(tmp_dir!(), "gate")}
    File.touch!(gate)
    options = [name: name, ready: fn -> File.exists?(gate) end, ready_timeout: 60_000]
    supervisor = supervise(child("exec sleep 60", carrier, options))
    old = Worker.info(name).worker
    File.rm!(gate)
    task = Task.async(fn -> Worker.restart(name) end)
    assert_eventually(fn -> match?(%{worker: number} when number != old, Worker.info(name)) end)
    :ok = Supervisor.stop(supervisor)
    assert {:error, _shutdown} = Task.await(task)
    assert_gone(carrier)
  end

  test "a check of the old program never ends the new one" do
    port = Ports.free()
    carrier = new_carrier()
    check = [check: {:tcp, port}, every: 20, failures: 1]
    line = Ports.http(port, [:after, 0])
    options = [ready: {:tcp, port}, health: check]
    {:ok, worker} = Worker.start_link(command({:sh, line}, carrier) ++ options)
    number = Worker.info(worker).worker
    assert {:ok, _exit} = Worker.restart(worker)
    Leash.Worker.Protocol.fail_unhealthy(worker, number, :of_the_old_life)
    assert %{state: :running} = Worker.info(worker)
    assert {:ok, %Exit{cause: :stop}} = :leash.restart(worker)
    assert {:ok, _exit} = Worker.stop(worker)
    assert_gone(carrier)
  end

  test "an attached tree has no options to start it with" do
    other = start_decoy("attached")
    {:ok, worker} = Leash.attach(elem(other.identity, 0), owner: :application)
    assert Worker.restart(worker) == {:error, :no_options}
    assert {:ok, _exit} = Worker.stop(worker)
  end
end
