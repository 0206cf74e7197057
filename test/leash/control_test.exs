defmodule Leash.ControlTest do
  # Serial: it counts processes, and `names` reports the workers of other tests, too.
  use Leash.Test.Case, async: false

  alias Leash.Control

  defp socket do
    dir = Leash.Run.current!().config.run_dir
    Path.join(dir, Leash.run_id() <> ".sock")
  end

  defp connect do
    {:ok, socket} = :gen_tcp.connect({:local, socket()}, 0, [:binary, active: false], 1_000)

    # If the listener's queue is full, connect(2) fails with EAGAIN (unix(7)). gen_tcp takes that
    # for a connection.
    case :inet.peername(socket) do
      {:ok, _listener} ->
        socket

      {:error, :enotconn} ->
        :gen_tcp.close(socket)
        receive(after: (5 -> connect()))
    end
  end

  defp ask(request, ms \\ 10_000) do
    socket = connect()
    :ok = :gen_tcp.send(socket, request)
    lines = read(socket, "", ms) |> String.split("\n", trim: true)
    :gen_tcp.close(socket)
    assert List.last(lines) == "end"
    lines |> List.delete_at(-1) |> Enum.map(&String.split(&1, "\t"))
  end

  defp read(socket, text, ms) do
    case :gen_tcp.recv(socket, 0, ms) do
      {:ok, more} ->
        text = text <> more
        if text =~ ~r/(\A|\n)end\n\z/, do: text, else: read(socket, text, ms)

      {:error, reason} ->
        flunk("#{inspect(reason)} after #{inspect(text)}")
    end
  end

  test "which names mean a worker" do
    decoy = start_decoy("sleeps beside them")
    a = start_tree(:plain, name: __MODULE__.A, group: :"group of atoms")
    b = start_tree(:plain, name: :control_b, group: "group\tof text")
    c = start_tree(:plain, group: {__MODULE__, 3})
    all = [a, b, c]
    of = fn tree -> to_string(Worker.info(tree.worker).worker) end

    for {tree, names} <- [
          {a, [inspect(__MODULE__.A), "Elixir.Leash.ControlTest.A"]},
          {a, [":\"group of atoms\"", "group of atoms"]},
          {b, [":control_b", "control_b", "group\tof text", ~S|"group\tof text"|]},
          {c, ["{Leash.ControlTest, 3}"]}
        ],
        name <- names do
      number = of.(tree)
      assert [["worker", ^number, "worker" | _rest]] = ask("find #{name}\n"), name
    end

    for nobody <- ["sh", of.(a), "nil", "all", ":all", "A", "3", "Elixir", "Control_b"],
        do: assert(ask("find #{nobody}\n") == [], nobody)

    assert ["name", ":control_b"] in ask("names\n")

    assert [["worker", _, _, os_pid, ":control_b", ~S|"group\\tof text"|]] =
             ask("find control_b\n")

    assert os_pid == to_string(elem(b.os, 0))
    for tree <- all, do: assert_alive(tree)
    number = of.(a)

    assert [["worker", ^number, _, _, _, _, "ended", how, ""]] =
             ask("stop 5000 Leash.ControlTest.A\n")

    assert how =~ ~r/^SIGTERM, the last of it by SIGTERM, \d+ ms$/
    assert_gone(a)
    for tree <- [b, c], do: assert_alive(tree)
    assert_unharmed(decoy)
  end

  test "what was attached or adopted has a name too" do
    Process.flag(:trap_exit, true)
    decoy = start_decoy("beside what was taken over")
    sleep = System.find_executable("sleep")
    port = Port.open({:spawn_executable, sleep}, args: ["60"])
    {:os_pid, attached} = Port.info(port, :os_pid)
    {:ok, attachment} = Leash.attach(attached, name: :control_attached)

    options = [on_exit: :detach, stdout: :null, stderr: :null, stop: [sigterm: 300]]

    {:ok, worker} =
      Worker.start_link([command: "sleep", args: ["61"], name: :control_detached] ++ options)

    detached = Worker.os_pid(worker)
    Process.exit(worker, :kill)
    assert_receive {:EXIT, ^worker, :killed}
    {:ok, _adopted} = Leash.Worker.adopt(":control_detached")

    for {name, kind, pid} <- [
          {"control_attached", "attachment", attached},
          {"control_detached", "adopted", detached}
        ] do
      os = Observer.identity(pid)
      pid = to_string(pid)
      assert ["name", ":" <> name] in ask("names\n")
      assert [["worker", _, ^kind, ^pid | _]] = ask("find :#{name}\n")
      assert Observer.alive?(os)
      assert [["worker", _, ^kind, ^pid, _, _, "ended" | _]] = ask("stop 5000 #{name}\n")
      refute Observer.alive?(os)
    end

    refute Process.alive?(attachment)
    assert_unharmed(decoy)
  end

  test "a worker is ended by its number only if its shim is the one that was seen" do
    decoy = start_decoy("beside the number")
    a = start_tree(:plain)
    b = start_tree(:plain)
    number = Worker.info(a.worker).worker
    {shim, other} = {Worker.shim_pid(a.worker), Worker.shim_pid(b.worker)}
    assert ask("end 5000 #{number} #{other}\n") == []

    for bad <- ["end 5000 #{number}", "end x #{number} #{shim}", "end 5000 0 #{shim}"],
        do: assert([["error", _why]] = ask(bad <> "\n"), bad)

    for tree <- [a, b], do: assert_alive(tree)
    text = to_string(number)
    assert [["worker", ^text, _, _, _, _, "ended" | _]] = ask("end 5000 #{number} #{shim}\n")
    assert_gone(a)
    assert_alive(b)
    assert_unharmed(decoy)
  end

  test "no request makes atoms, and what is no request is told so" do
    tree = start_tree(:plain, group: :control_safe)
    [["error", _sentence]] = ask("dance\n")
    before = :erlang.system_info(:atom_count)

    for bad <- [
          "stop 5000\n",
          "stop -1 control_safe\n",
          "stop 1e3 control_safe\n",
          "stop 99999999999 control_safe\n",
          "stop control_safe\n",
          "find \n",
          "find\n",
          "\n",
          "find " <> String.duplicate("x", 5_000) <> "\n"
        ],
        do: assert([["error", _sentence]] = ask(bad), bad)

    for number <- 1..50, do: assert(ask("find never_an_atom_#{number}_#{number}\n") == [])
    assert ask(<<"find ", 0xFF, 0xFE, 0, "\n">>) == []
    assert :erlang.system_info(:atom_count) - before < 50
    assert_alive(tree)
  end

  test "a client that says nothing, or goes, costs nothing" do
    # More clients than are served at a time, and no more than then fit in the listener's queue.
    silent = for _ <- 1..35, do: connect()

    # The server lets go of silent clients after a while, and serves those that came later.
    Enum.each(silent, &:gen_tcp.close/1)
    assert ask("find nobody\n") == []
    socket = connect()
    :ok = :gen_tcp.send(socket, "find half a li")
    :gen_tcp.close(socket)
    assert ask("find nobody\n") == []
    assert Control.status() == :ok
  end

  test "an end that was asked for goes on after its client has gone" do
    tree = start_tree(:ignores_term, group: :control_gone, stop: [sigterm: 30_000])
    socket = connect()
    :ok = :gen_tcp.send(socket, "stop 300 control_gone\n")
    assert_eventually(fn -> match?([%{tree: :ending}], rows(:control_gone)) end)
    :gen_tcp.close(socket)
    assert_gone(tree, 5_000)
  end

  defp rows(group), do: Enum.filter(Leash.list(), &(&1.group == group))

  test "a worker that is still starting, and one whose Worker is killed meanwhile" do
    test = self()

    _starter =
      spawn(fn ->
        # A start that fails first sends an exit signal.
        Process.flag(:trap_exit, true)

        send(
          test,
          {:started,
           Worker.start_link(
             command: "sleep",
             args: ["90"],
             name: :control_starting,
             ready: ~r/never/,
             ready_timeout: 60_000
           )}
        )
      end)

    assert_eventually(fn -> ask("find control_starting\n") != [] end)

    assert_eventually(fn ->
      match?([["worker", _, _, pid | _]] when pid != "", ask("find control_starting\n"))
    end)

    [["worker", _, _, pid | _]] = ask("find control_starting\n")
    os = Observer.identity(String.to_integer(pid))
    assert [["worker", _, _, _, _, _, "ended", _how, ""]] = ask("stop 5000 control_starting\n")
    refute Observer.alive?(os)
    assert_receive {:started, {:error, _stopping}}, 5_000

    tree = start_tree(:ignores_term, name: :control_killed, stop: [sigterm: 30_000])
    task = Task.async(fn -> ask("stop 10000 control_killed\n", 20_000) end)
    assert_eventually(fn -> Enum.any?(Leash.list(), &(&1.tree == :ending)) end)
    Process.exit(tree.worker, :kill)
    assert [["worker", _, _, _, _, _, "gone", "", ""]] = Task.await(task, 20_000)
    assert_gone(tree)
  end

  test "a socket that was removed comes back" do
    File.rm!(socket())
    %{listener: listener} = :sys.get_state(Control)
    send(Control, {:look, listener})
    assert_eventually(fn -> File.exists?(socket()) and Control.status() == :ok end)
    assert ask("find nobody\n") == []
  end

  test "a control process that stops listening takes the socket away" do
    :ok = Supervisor.terminate_child(Leash.Supervisor, Control)
    refute File.exists?(socket())
    assert Leash.capabilities().control == {:error, :not_running}
    {:ok, _pid} = Supervisor.restart_child(Leash.Supervisor, Control)
    assert ask("find nobody\n") == []
  end

  test "a number out of bounds is answered, and so is one at the bound" do
    for ms <- ["2147483648", "4294967295", "4294967296", "-1", "1" <> String.duplicate("0", 400)],
        do: assert(Control.request("stop #{ms} name\n") == :unknown)

    assert Control.request("stop 2147483647 name\n") == {:stop, 0x7FFFFFFF, "name"}
    assert [["error", _why]] = ask("stop 4294967295 no_such_name\n")
    assert [] = ask("stop 2147483647 no_such_name\n")
    assert [] = ask("find " <> <<0xFF, 0xFE>> <> "\n")
  end

  test "only this user and root are served" do
    own = Leash.Native.euid()
    assert Control.served?({:ok, own}) and Control.served?({:ok, 0})
    refute Control.served?({:ok, own + 1})
    refute Control.served?(:error)
  end

  @tag needs: :setpriv
  @tag :slow
  test "another user is not answered, even where directory and socket let it in" do
    dir = tmp_dir!()
    umask = "sh -c 'umask 0; exec \"$@\"' sh"
    vm = start_vm([], run_dir: dir, prefix: umask)
    path = Path.join(dir, vm.run_id <> ".sock")
    assert Bitwise.band(File.stat!(path).mode, 0o777) == 0o600

    client = """
    import socket
    s = socket.socket(socket.AF_UNIX)
    s.connect("#{path}")
    s.sendall(b"stop 0 x\\n")
    print(s.recv(100))
    """

    # A program that another user may execute, too.
    python = Enum.find(["/usr/bin/python3", "/usr/local/bin/python3"], &File.exists?/1)
    assert {"b'end\\n'\n", 0} = System.cmd(python, ["-c", client], stderr_to_stdout: true)
    stranger = ~w(--reuid=65534 --regid=65534 --clear-groups) ++ [python, "-c", client]
    File.chmod!(dir, 0o755)
    {text, 1} = System.cmd("setpriv", stranger, stderr_to_stdout: true)
    assert text =~ "PermissionError"
    File.chmod!(path, 0o666)
    {text, _status} = System.cmd("setpriv", stranger, stderr_to_stdout: true)
    refute text =~ "b'end"
    assert text =~ "b''" or text =~ ~r/ConnectionReset|BrokenPipe/, text

    # If the directory is open to others, the control process does not listen at all.
    closed? =
      VM.eval(vm, """
      %{listener: listener} = :sys.get_state(Leash.Control)
      send(Leash.Control, {:look, listener})
      Leash.Test.Observer.eventually(5_000, fn -> Leash.capabilities().control != :ok end) != nil
      """)

    assert closed?
    File.chmod!(dir, 0o700)
    assert_eventually(fn -> VM.eval(vm, "Leash.capabilities().control") == :ok end, 10_000)
  end
end
