defmodule Leash.RestartTest do
  @moduledoc """
  A start that meets a tree of its own run which is still ending waits for what that tree holds.
  """

  use Leash.Test.Case, async: false

  @moduletag :slow

  alias Leash.Test.{Name, Ports}

  # Listens, and takes its time to end.
  @server """
  import os, signal, socket, sys, time
  port, seconds = int(sys.argv[1]), float(sys.argv[2])
  def end(*_):
      time.sleep(seconds)
      sys.exit(0)
  signal.signal(signal.SIGTERM, end)
  server = socket.socket()
  server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  server.bind(("127.0.0.1", port))
  server.listen(64)
  print("ready", os.getpid(), flush=True)
  while True:
      server.accept()[0].close()
  """

  defmodule Owner do
    @moduledoc "A process that starts a worker and crashes on request."
    use GenServer

    def start_link({name, options}),
      do: GenServer.start_link(__MODULE__, options, name: name)

    @impl true
    def init(options) do
      case Worker.start_link(options) do
        {:ok, worker} -> {:ok, worker}
        {:error, reason} -> {:stop, reason}
      end
    end

    @impl true
    def handle_call(:worker, _from, worker), do: {:reply, worker, worker}

    @impl true
    def handle_cast(:crash, _worker), do: raise("a bug in the owner")
  end

  setup do
    {:ok, listener} = :gen_tcp.listen(0, ip: {127, 0, 0, 1}, reuseaddr: true)
    {:ok, port} = :inet.port(listener)
    :ok = :gen_tcp.close(listener)
    {:ok, port: port}
  end

  defp server(port, seconds, options \\ []) do
    args = ["-E", "-s", "-S", "-c", @server, "#{port}", "#{seconds}"]

    [command: Python.path(), args: args, stdout: :null, stderr: :null, stop: [sigterm: 10_000]]
    |> Keyword.merge(options)
  end

  defp supervise(child) do
    {:ok, supervisor} = Supervisor.start_link([child], strategy: :one_for_one)
    supervisor
  end

  defp worker_of(supervisor) do
    [{_id, worker, :worker, _modules}] = Supervisor.which_children(supervisor)
    worker
  end

  defp timed(fun), do: with({us, result} <- :timer.tc(fun), do: {div(us, 1_000), result})

  for {title, options} <- [
        {"killed at once", []},
        {"ended by its ladder", [on_crash: :ladder]}
      ] do
    test "a supervisor restarts a worker after a kill of its process, its tree being #{title}", %{
      port: port
    } do
      supervisor = supervise({Worker, server(port, 1, [ready: {:tcp, port}] ++ unquote(options))})
      first = worker_of(supervisor)
      os = Observer.identity(Worker.os_pid(first))
      Process.exit(first, :kill)
      assert_eventually(fn -> worker_of(supervisor) not in [first, :restarting] end, 15_000)
      next = worker_of(supervisor)
      refute Observer.alive?(os)
      assert %{state: :running} = Worker.info(next)
      Supervisor.stop(supervisor)
    end

    test "a supervisor restarts an owner that crashed, its tree being #{title}", %{port: port} do
      name = String.to_atom(Name.unique("owner"))
      options = server(port, 1, [ready: {:tcp, port}] ++ unquote(options))
      supervisor = supervise({Owner, {name, options}})
      os = Observer.identity(Worker.os_pid(GenServer.call(name, :worker)))
      first = Process.whereis(name)
      GenServer.cast(name, :crash)
      assert_eventually(fn -> worker_of(supervisor) not in [first, :restarting] end, 15_000)
      refute Observer.alive?(os)
      assert %{state: :running} = Worker.info(GenServer.call(name, :worker))
      Supervisor.stop(supervisor)
    end
  end

  test "a worker's name is waited for where its owner has crashed", %{port: port} do
    name = String.to_atom(Name.unique("owner"))
    worker = String.to_atom(Name.unique("named"))
    options = server(port, 1, name: worker, on_crash: :ladder, ready: {:tcp, port})
    supervisor = supervise({Owner, {name, options}})
    first = Process.whereis(worker)
    os = Observer.identity(Worker.os_pid(worker))
    GenServer.cast(name, :crash)
    assert_eventually(fn -> Process.whereis(worker) not in [first, nil] end, 15_000)
    refute Observer.alive?(os)
    assert Process.alive?(supervisor)
    Supervisor.stop(supervisor)
  end

  test "a name that is taken by a worker which goes on is refused at once", %{port: port} do
    worker = String.to_atom(Name.unique("named"))
    {:ok, first} = Worker.start_link(server(port, 0, name: worker))
    assert {:error, {:already_started, ^first}} = Worker.start_link(server(port, 0, name: worker))
    assert {:ok, %Exit{}} = Worker.stop(first)
  end

  test "a port of a tree that did not name it is waited for", %{port: port} do
    {:ok, first} =
      Worker.start_link(server(port, 1, stdout: :output, ready: ~r/ready/, on_crash: :ladder))

    os = Observer.identity(Worker.os_pid(first))
    Process.exit(first, :kill)
    assert {:ok, next} = Worker.start_link(server(port, 0, ready: {:tcp, port}))
    refute Observer.alive?(os)
    assert {:ok, %Exit{}} = Worker.stop(next)
  end

  test "a port of a program behind a port of the VM is waited for", %{port: port} do
    options = server(port, 1)
    test = self()

    owner =
      spawn(fn ->
        opened =
          Leash.open_port(options[:command], options[:args], [:binary, stop: options[:stop]])

        receive(do: ({^opened, {:data, "ready" <> _pid}} -> send(test, :ready)))
        Process.sleep(:infinity)
      end)

    assert_receive :ready, 10_000
    Process.exit(owner, :kill)
    assert {:ok, next} = Worker.start_link(server(port, 0, ready: {:tcp, port}))
    assert {:ok, %Exit{}} = Worker.stop(next)
  end

  test "a worker that is being stopped is waited for, too", %{port: port} do
    {:ok, first} = Worker.start_link(server(port, 1, ready: {:tcp, port}))
    os = Observer.identity(Worker.os_pid(first))
    stopping = Task.async(fn -> Worker.stop(first) end)
    assert_eventually(fn -> Worker.info(first).state == :ending end)
    assert {:ok, next} = Worker.start_link(server(port, 0, ready: {:tcp, port}))
    refute Observer.alive?(os)
    assert {:ok, %Exit{}} = Task.await(stopping, 20_000)
    assert {:ok, %Exit{}} = Worker.stop(next)
  end

  test "the file of a program that is ending is written by one of that program at a time" do
    file = Path.join(tmp_dir!(), "log")

    writes = "trap 'sleep 1; echo end; exit' TERM; echo begin; while :; do sleep 0.02; done"

    start = fn more ->
      Worker.start_link(
        shell: writes <> more,
        stdout: {:file, file},
        stderr: :null,
        on_crash: :ladder,
        stop: [sigterm: 10_000]
      )
    end

    {:ok, first} = start.("")
    assert_eventually(fn -> File.read!(file) == "begin\n" end)
    Process.exit(first, :kill)
    # Another program that writes there, too.
    {:ok, other} = start.("; :")
    {:ok, next} = start.("")
    assert_eventually(fn -> length(String.split(File.read!(file))) == 4 end)
    said = String.split(File.read!(file))
    assert List.last(said) == "begin"
    assert "end" in said
    for worker <- [other, next], do: assert({:ok, %Exit{}} = Worker.stop(worker))
  end

  test "a start does not wait for a tree that has nothing of what is wanted", %{port: port} do
    line = "trap '' TERM; echo ready $$; while :; do sleep 0.02; done"
    tree = start_tree({:sh, line}, stop: [sigterm: 60_000], on_crash: :ladder)
    Process.exit(tree.worker, :kill)
    file = Path.join(tmp_dir!(), "log")

    {took, {:ok, next}} =
      timed(fn ->
        Worker.start_link(server(port, 0, ready: {:tcp, port}, stderr: {:file, file}))
      end)

    assert took < 30_000
    assert Observer.alive?(tree.os)
    assert {:ok, %Exit{}} = Worker.stop(next)
  end

  test "two workers that go on may write one file" do
    file = Path.join(tmp_dir!(), "log")
    options = [command: "sleep", args: ["60"], stdout: {:file, file}, stderr: :null]
    workers = for _ <- 1..2, {:ok, worker} = Worker.start_link(options), do: worker
    for worker <- workers, do: assert({:ok, %Exit{}} = Worker.stop(worker))
  end

  test "a port of another process is refused", %{port: port} do
    carrier = new_carrier()
    words = Python.quote_all([Python.path(), "-E", "-s", "-S", "-c", @server, "#{port}", "0"])
    {_port, os, _words} = Leash.Test.Script.start("exec " <> words, carrier)
    assert_eventually(fn -> Ports.listened?(port) end, 20_000)

    assert {:error, {:port_in_use, ^port}} =
             Worker.start_link(server(port, 0, ready: {:tcp, port}))

    assert Observer.alive?(os)
  end

  @tag needs: :freezer
  test "what cannot be ended blocks no start for ever" do
    name = String.to_atom(Name.unique("frozen"))
    tree = start_tree(:plain, name: name, stop: [sigterm: 100])
    freezer = freeze(tree.os)
    Process.exit(tree.worker, :kill)
    assert_eventually(fn -> Process.whereis(name) == nil end)
    assert {:ok, next} = Worker.start_link(command: "sleep", args: ["60"], name: name)
    assert Observer.alive?(tree.os)
    assert {:ok, %Exit{}} = Worker.stop(next)
    thaw(freezer)
    assert_gone(tree, 5_000)
  end
end
