defmodule Leash.DegradedTest do
  # What Leash does on a system that is not Linux. VMs that take this one for another system, with
  # `:os_type`, show it; their code has never loaded the native library.
  use ExUnit.Case, async: false

  alias Leash.Test.{Decoy, Name, Observer}

  @ebin to_string(:code.lib_dir(:leash)) <> "/ebin"

  @elsewhere "Application.put_env(:leash, :os_type, {:unix, :darwin})"
  @degrade @elsewhere <> "; Application.put_env(:leash, :unsupported_os, :degrade)"
  @start "{:ok, _apps} = Application.ensure_all_started(:leash); Process.flag(:trap_exit, true)"

  defp code(settings, body), do: Enum.join([settings, @start, body], "\n")

  # Runs code in a VM, and returns its value and what it wrote to stderr.
  defp evaluate(settings, body) do
    path = Path.join(System.tmp_dir!(), Name.unique("leash-degraded"))
    on_exit(fn -> File.rm(path) end)
    write = "File.write!(#{inspect(path)}, :erlang.term_to_binary((fn ->\n#{body}\nend).()))"
    {log, status} = System.cmd("elixir", arguments(code(settings, write)), stderr_to_stdout: true)
    assert status == 0, log
    {path |> File.read!() |> :erlang.binary_to_term(), log}
  end

  defp arguments(code), do: ["-pa", @ebin, "-e", code]

  # A VM that lives until it is killed; returns its port, its pid and what its code printed.
  defp boot(body) do
    port =
      Port.open({:spawn_executable, System.find_executable("elixir")}, [
        :binary,
        {:line, 4_096},
        args: arguments(code(@degrade, body <> "\nProcess.sleep(:infinity)"))
      ])

    {:os_pid, pid} = Port.info(port, :os_pid)
    vm = Observer.identity(pid)
    on_exit(fn -> Observer.signal(vm, "KILL") end)
    {vm, line(port)}
  end

  defp line(port) do
    receive do
      {^port, {:data, {:eol, "pids " <> pids}}} ->
        for pid <- String.split(pids), do: pid |> String.to_integer() |> Observer.identity()

      {^port, {:data, _other}} ->
        line(port)
    after
      20_000 -> flunk("no line from the VM")
    end
  end

  defp decoy do
    decoy = Decoy.start("beside")
    on_exit(fn -> Decoy.stop(decoy) end)
    decoy
  end

  # A tree of two processes, whose pids its output has.
  @tree ~S"""
  me = self()
  {:ok, worker} = Leash.Worker.start_link(
    command: "sh", args: ["-c", "sleep 600 & echo $$ $!; wait"], on_output: me, group: :kennel)
  pids = receive do {:leash_output, ^worker, :stdout, pids} -> String.trim(pids) end
  """

  test "on another system every start is refused with one sentence, and the application starts" do
    {answers, log} =
      evaluate(@elsewhere, ~S"""
      rescued = fn call ->
        try do call.() rescue error in Leash.Error -> {error.reason, Exception.message(error)} end
      end

      [
        rescued.(fn -> Leash.cmd("true") end),
        rescued.(fn -> Enum.to_list(Leash.stream!("true")) end),
        rescued.(fn -> Leash.open_port("true") end),
        rescued.(fn -> Leash.run_id() end),
        Leash.Worker.start_link(command: "true"),
        Leash.attach(String.to_integer(System.pid())),
        Leash.sweep(), Leash.kill_run("s59m65f"), Leash.Worker.adopt("x"),
        Leash.OSProcess.identify(2), Leash.list(), Leash.stop_all(), Leash.Worker.detached(),
        Leash.capabilities().record, Leash.tree()
      ]
      """)

    assert [cmd, stream, port, run_id, worker, attach, sweep, kill, adopt | rest] = answers
    assert {:unsupported_os, "Leash runs on Linux: " <> _advice} = cmd
    assert [stream, port, run_id] == [cmd, cmd, cmd]
    refused = {:error, :unsupported_os}
    assert [worker, attach, sweep, kill, adopt] == List.duplicate(refused, 5)
    assert [^refused, [], {:ok, []}, [], ^refused, tree] = rest
    assert "no run: Leash runs on Linux: " <> _advice = tree
    refute log =~ "degrade"
  end

  test "with :degrade, commands and streams answer as elsewhere, and the start warns" do
    {answers, log} =
      evaluate(@degrade, ~S"""
      [
        Leash.cmd("sh", ["-c", "echo $KENNEL; pwd"], env: [{"KENNEL", "dog"}], cd: "/usr"),
        Leash.cmd("sh", ["-c", "echo out; echo err >&2; exit 3"], stderr: :capture),
        Leash.cmd("sh", ["-c", "echo out; echo err >&2"], stderr_to_stdout: true),
        Leash.cmd("cat", [], input: Stream.map(1..3, &"#{&1}\n"), lines: 80, into: []),
        Leash.cmd("cat", [], stdin: :null),
        Leash.cmd("sleep", ["600"], timeout: 100),
        Leash.cmd("yes", [], max_output: 4),
        Leash.cmd("sh", ["-c", "trap '' TERM; sleep 600; sleep 600"], timeout: 100, stop: [sigterm: 100]),
        Leash.stream("seq", ["3"]) |> Enum.to_list(),
        Leash.stream!("yes", [], max_chunk_size: 2) |> Enum.take(2),
        Leash.list()
      ]
      """)

    assert answers == [
             {"dog\n/usr\n", 0},
             {{"out\n", "err\n"}, 3},
             {"out\nerr\n", 0},
             {["1", "2", "3"], 0},
             {"", 0},
             {"", :timeout},
             {"y\ny\n", :max_output},
             {"", :timeout},
             ["1\n2\n3\n", {:exit, {:status, 0}}],
             ["y\n", "y\n"],
             []
           ]

    assert [_warning] = Regex.scan(~r/this is darwin: programs are plain ports/, log)
    assert log =~ "never for production"
    assert Path.wildcard(Path.join(System.tmp_dir!(), "leash-[0-9]*-*")) == []
  end

  test "with :degrade, a worker's output goes in lines, into a Collectable, a file and the log" do
    {answers, log} =
      evaluate(@degrade, ~S"""
      path = Path.join(System.tmp_dir!(), "leash-degraded-#{System.pid()}")
      run = fn options ->
        {:ok, worker} = Leash.Worker.start_link([shell: "printf 'a\\r\\nb'"] ++ options)
        receive do {:EXIT, ^worker, :normal} -> :ok end
      end
      read = fn -> text = File.read!(path); File.rm!(path); text end

      run.(on_output: self(), lines: true)
      lines = for _ <- 1..2, do: receive(do: ({:leash_output, _, :stdout, line} -> line))
      run.(on_output: {:into, File.stream!(path)})
      into = read.()
      run.(stdout: {:file, path, rotate: [size: 9]})
      file = read.()
      run.(on_output: {:log, prefix: "dog> "}, label: "kennel")
      idle = Leash.cmd("sleep", ["600"], timeout: [idle: 100])
      [lines, into, file, idle, Leash.cmd("echo", ["x"], stdout: :null)]
      """)

    assert answers == [["a", "b"], "a\r\nb", "a\r\nb", {"", {:timeout, :idle}}, {"", 0}]
    assert log =~ "dog> a\n"
    assert log =~ "dog> b\n"
  end

  test "with :degrade, a worker is listed, written to, stopped, and exits as its program does" do
    {answers, _log} =
      evaluate(@degrade, ~S"""
      me = self()
      {:ok, cat} = Leash.Worker.start_link(command: "cat", stdin: :pipe, on_output: me, group: :a)
      :ok = Leash.Worker.write(cat, "bow wow\n")
      heard = receive do {:leash_output, ^cat, :stdout, heard} -> heard end
      [%{kind: :worker, pid: ^cat, group: :a, os_pid: pid, label: "cat"}] = Leash.list()
      %{os_pid: ^pid, state: :running} = Leash.Worker.info(cat)
      tree = Leash.tree(:a)
      {:ok, stopped} = Leash.Worker.stop(cat)
      exits = for status <- [0, 7] do
        {:ok, worker} = Leash.Worker.start_link(shell: "sleep 0.2; exit #{status}")
        receive do {:EXIT, ^worker, reason} -> reason end
      end
      late = Leash.Worker.start_link(command: "sleep", args: ["600"], ready: ~r/never/, ready_timeout: 100)
      {:ok, ready} = Leash.Worker.start_link(shell: "echo READY; exec sleep 600", ready: ~r/READY/, group: :b)
      {:ok, _other} = Leash.Worker.start_link(command: "sleep", args: ["600"], group: :c)
      {:ok, [%{result: result, group: :b, pid: ^ready}]} = Leash.stop_all(:b)
      {heard, tree, stopped.status, exits, late, result, length(Leash.list())}
      """)

    assert {"bow wow\n", tree, 143, [:normal, {:exit_status, 7}], {:error, :ready_timeout},
            {:ok, :gone}, 1} = answers

    assert tree =~ ~r/^no run: .*\n└─ worker \d+ cat in :a \[/
  end

  test "with :degrade, a program gets no terminal, and nothing is started" do
    {answers, _log} =
      evaluate(@degrade, ~S"""
      start = Leash.Worker.start_link(command: "sleep", args: ["600"], pty: true)
      raised = try do Leash.cmd("true", [], pty: true) rescue error -> error end
      {:ok, worker} = Leash.Worker.start_link(command: "sleep", args: ["600"])
      {start, raised, Leash.Worker.resize(worker, 24, 80), length(Leash.list())}
      """)

    assert {{:error, {:pty, :enotsup}}, %ErlangError{original: :enotsup}, {:error, :no_pty}, 1} =
             answers
  end

  test "with :degrade, a program gets no other rights, and its environment is cleared" do
    {answers, _log} =
      evaluate(@degrade, ~S"""
      starts =
        for options <- [[user: 1, gid: 1], [no_new_privs: true], [umask: 0o77]] do
          raised = fn call -> try do call.() rescue error in Leash.Error -> error.reason end end

          [
            Leash.Worker.start_link([command: "sleep", args: ["600"]] ++ options),
            raised.(fn -> Leash.cmd("true", [], options) end),
            raised.(fn -> Leash.open_port("true", [], options) end)
          ]
        end

      left = length(Leash.list())
      env = System.find_executable("env")
      {text, 0} = Leash.cmd(env, [], clear_env: true, env: %{"A" => "b"})
      port = Leash.open_port(env, [], [:binary, clear_env: true, env: %{"A" => "b"}])
      seen = receive do {^port, {:data, text}} -> text end
      {starts, text =~ "A=b\n", text =~ ~r/^HOME=/m, seen, left}
      """)

    refused = {:ids, :enotsup}

    assert {starts, true, false, "A=b\n", 0} = answers
    assert starts == List.duplicate([{:error, refused}, refused, refused], 3)
  end

  for {how, ending} <- [
        {"kill -9 of the VM", "Process.sleep(:infinity)"},
        {"the crash of its owner", "Process.exit(owner, :kill)"},
        {"the stop of the application", "Application.stop(:leash)"},
        {"stop_all", "Leash.stop_all(:kennel)"}
      ] do
    test "with :degrade, #{how} ends the worker's group and nothing else" do
      decoy = decoy()
      ending = unquote(ending)

      {vm, tree} =
        boot("""
        test = self()
        owner = spawn(fn ->
          #{@tree}
          send(test, {:pids, pids})
          Process.sleep(:infinity)
        end)
        receive do {:pids, pids} -> IO.puts("pids " <> pids) end
        _owner = owner
        spawn(fn -> IO.gets(""); #{ending} end)
        """)

      assert [_shell, _sleep] = tree
      assert Enum.all?(tree, &Observer.alive?/1)
      if ending =~ "infinity", do: Observer.signal(vm, "KILL"), else: tell(vm)
      assert Observer.eventually(10_000, fn -> not Enum.any?(tree, &Observer.alive?/1) end)
      assert Decoy.harm(decoy) == nil
    end
  end

  # The only port of this process is the VM's.
  defp tell({pid, _ticks}) do
    port = Enum.find(Port.list(), &(Port.info(&1, :os_pid) == {:os_pid, pid}))
    true = Port.command(port, "now\n")
  end

  test "with :degrade, the end of a port ends what its program started" do
    {vm, tree} =
      boot(~S"""
      port = Leash.open_port("sh", ["-c", "sleep 600 & echo $$ $!; wait"], [:binary])
      receive do {^port, {:data, pids}} -> IO.puts("pids " <> String.trim(pids)) end
      [%{kind: :port}] = Leash.list()
      spawn(fn -> IO.gets("") ; :erlang.port_close(port) end)
      """)

    assert Enum.all?(tree, &Observer.alive?/1)
    tell(vm)
    assert Observer.eventually(10_000, fn -> not Enum.any?(tree, &Observer.alive?/1) end)
    assert Observer.alive?(vm)
  end

  test "a worker waits for what it needs, and has no shim that could signal or restart it" do
    body = """
    Process.flag(:trap_exit, true)
    options = [command: "sleep", args: ["600"], wait_timeout: 50]
    missing = Leash.Worker.start_link([wait_for: {:file, "/no/such/file"}] ++ options)
    {:ok, worker} = Leash.Worker.start_link([wait_for: {:file, "/"}] ++ options)
    waits = Leash.Worker.await(worker, 50)
    calls = [Leash.Worker.signal(worker, :sighup), Leash.Worker.restart(worker)]
    {:ok, _exit} = Leash.Worker.stop(worker)
    {missing, waits, calls}
    """

    assert {{missing, waits, calls}, _log} = evaluate(@degrade, body)
    assert missing == {:error, {:wait_timeout, {:file, "/no/such/file"}}}
    assert waits == {:error, :timeout}
    assert calls == [error: :unsupported_os, error: :unsupported_os]
  end
end
