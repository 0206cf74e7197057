defmodule Leash.WorkerTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Leash.{Exit, Worker}

  # The operating system's own view: the state letter of a process, or nil without the process.
  defp os_state(pid) do
    case File.read("/proc/#{pid}/stat") do
      {:ok, stat} -> stat |> String.split(") ") |> List.last() |> String.first()
      {:error, _} -> nil
    end
  end

  defp alive?(pid), do: os_state(pid) not in [nil, "Z", "X"]

  # It is linked to the test, so that the test does not miss the exit of a program that ends at
  # once.
  defp start!(options) do
    Process.flag(:trap_exit, true)
    {:ok, worker} = Worker.start_link(Keyword.put_new(options, :on_output, self()))
    worker
  end

  defp output(worker, stream \\ :stdout, so_far \\ "") do
    receive do
      {:leash_output, ^worker, ^stream, data} -> output(worker, stream, so_far <> data)
    after
      0 -> so_far
    end
  end

  defp line(worker, so_far \\ "") do
    assert_receive {:leash_output, ^worker, :stdout, data}, 5_000
    line = so_far <> data
    if String.ends_with?(line, "\n"), do: String.trim(line), else: line(worker, line)
  end

  test "a worker runs, tells its pids, and is gone when stop returns" do
    worker = start!(command: "sleep", args: ["60"])
    info = Worker.info(worker)

    assert alive?(info.os_pid) and alive?(info.shim_pid)
    assert Worker.os_pid(worker) == info.os_pid
    assert Worker.shim_pid(worker) == info.shim_pid
    assert info.run_id == Leash.run_id()
    assert info.mark == :set
    assert info.state == :running
    assert Enum.any?(Leash.list(), &(&1.pid == worker and &1.os_pid == info.os_pid))

    assert {:ok, %Exit{signal: :sigterm, cause: :stop, step: :sigterm} = exit} =
             Worker.stop(worker)

    assert exit.os_pid == info.os_pid
    assert [%{signal: :sigterm, reaped: 1}] = exit.steps
    refute alive?(info.os_pid)
    refute alive?(info.shim_pid)
  end

  test "two callers of stop get the same answer" do
    worker =
      start!(
        shell: "trap 'sleep 0.2; exit 3' TERM; exec 3>&1; (echo ready >&3; exec sleep 60) & wait",
        stop: [sigterm: 5_000]
      )

    assert line(worker) == "ready"
    tasks = for _ <- 1..3, do: Task.async(fn -> Worker.stop(worker) end)
    assert [{:ok, %Exit{status: 3} = exit}, {:ok, exit}, {:ok, exit}] = Task.await_many(tasks)
    assert exit.step == :sigterm
    assert Worker.stop(worker) == {:error, :noproc}
  end

  test "a worker that ignores SIGTERM is killed after its grace" do
    worker =
      start!(
        shell: "trap '' TERM; echo ready; while :; do sleep 0.05; done",
        stop: [sigterm: 150]
      )

    assert line(worker) == "ready"
    assert {:ok, %Exit{signal: :sigkill, step: :sigkill, duration: ms}} = Worker.stop(worker)
    assert ms >= 150
  end

  test "stop with kill: true does not wait for the ladder" do
    worker =
      start!(
        shell: "trap '' TERM; echo ready; while :; do sleep 0.05; done",
        stop: [sigterm: :infinity]
      )

    assert line(worker) == "ready"
    graceful = Task.async(fn -> Worker.stop(worker) end)
    assert eventually(fn -> Worker.info(worker).state == :ending end)
    assert {:ok, %Exit{signal: :sigkill} = exit} = Worker.stop(worker, kill: true)
    assert Task.await(graceful) == {:ok, exit}
  end

  test "output arrives whole, stream by stream" do
    worker = start!(shell: "echo out; echo err >&2; head -c 300000 /dev/zero; exit 4")
    assert_receive {:EXIT, ^worker, {:exit_status, 4}}, 5_000
    out = output(worker)
    assert byte_size(out) == 300_004
    assert binary_part(out, 0, 4) == "out\n"
    assert output(worker, :stderr) == "err\n"
  end

  test "output of a child that outlives its leader by less than the linger is not lost" do
    worker = start!(command: "bash", args: ["-c", "echo x > >(sleep .05; cat)"], linger: 2_000)
    assert_receive {:EXIT, ^worker, :normal}, 5_000
    assert output(worker) == "x\n"
  end

  test "stderr can go where stdout goes" do
    worker = start!(shell: "echo a; echo b >&2; echo c", stderr: :stdout)
    assert_receive {:EXIT, ^worker, :normal}, 5_000
    assert output(worker) == "a\nb\nc\n"
  end

  @tag :tmp_dir
  test "a file is appended to", %{tmp_dir: dir} do
    path = Path.join(dir, "log")
    File.write!(path, "before\n")
    worker = start!(shell: "echo out; echo err >&2", stdout: {:file, path}, stderr: :stdout)
    assert_receive {:EXIT, ^worker, :normal}, 5_000
    assert File.read!(path) == "before\nout\nerr\n"
  end

  test "a function gets output, and its mistakes cost only themselves" do
    parent = self()

    log =
      capture_log(fn ->
        worker =
          start!(
            shell: "echo bad; read x; echo good",
            stdin: :pipe,
            on_output: fn stream, data ->
              send(parent, {stream, data})
              if data == "bad\n", do: raise("oops")
            end
          )

        assert_receive {:stdout, "bad\n"}, 5_000
        assert :ok = Worker.write(worker, "go\n")
        assert_receive {:stdout, "good\n"}, 5_000
        assert_receive {:EXIT, ^worker, :normal}, 5_000
      end)

    assert log =~ "oops"
  end

  test "lines are logged with the worker's name" do
    log =
      capture_log(fn ->
        shell = "echo one; printf two; echo three >&2"
        worker = start!(shell: shell, name: MyLoggedWorker, on_output: :log)
        assert_receive {:EXIT, ^worker, _}, 5_000
      end)

    assert log =~ ~r/\[info\].*MyLoggedWorker: one/
    assert log =~ ~r/\[info\].*MyLoggedWorker: two/
    assert log =~ ~r/\[warn(ing)?\].*MyLoggedWorker: three/
  end

  @tag :tmp_dir
  test "what is logged is text, all of it, and controls no terminal", %{tmp_dir: dir} do
    # A program whose name is no UTF-8.
    program = Path.join(dir, "gr\xFCn\e[2J")

    File.write!(program, """
    #!/bin/sh
    printf 'Datei "gr\\374n.txt" \\033[31mrot\\033]0;title\\007\\n'
    printf 'half \\342\\234' >&2
    head -c 400000 /dev/zero | tr '\\0' x
    printf '\\n10%%\\r20%%\\r30%%\\r'
    """)

    File.chmod!(program, 0o755)

    log =
      capture_log(fn ->
        worker = start!(command: program, on_output: :log)
        assert_receive {:EXIT, ^worker, :normal}, 5_000
      end)

    log = String.replace(log, ~r/\e\[\d*m/, "")
    assert String.valid?(log)
    refute log =~ ~r/[^\PC\n\t]/u
    assert log =~ "gr\uFFFDn␛[2J: Datei \"gr\uFFFDn.txt\" ␛[31mrot␛]0;title␇\n"
    assert log =~ "half \uFFFD\uFFFD\n"
    assert log =~ ": 30%\n"
    refute log =~ "10%"
    lines = for line <- String.split(log, "\n"), line =~ "xxxx", do: line
    assert length(lines) > 40

    assert lines
           |> Enum.map(&(&1 |> String.graphemes() |> Enum.count(fn x -> x == "x" end)))
           |> Enum.sum() == 400_000
  end

  test "a handler that blocks does not hold up the end of the tree" do
    worker =
      start!(
        shell: "yes",
        on_output: fn _stream, _data -> Process.sleep(:infinity) end,
        stop: [sigterm: 5_000]
      )

    pid = Worker.os_pid(worker)
    assert {:ok, %Exit{}} = Worker.stop(worker)
    refute alive?(pid)
  end

  test "what is written arrives, and the end of the input can be seen" do
    worker = start!(command: "cat", stdin: :pipe)
    data = :crypto.strong_rand_bytes(500_000)
    assert :ok = Worker.write(worker, [data, "end"])
    assert :ok = Worker.close_stdin(worker)
    assert {:error, _closed} = Worker.write(worker, "more")
    assert_receive {:EXIT, ^worker, :normal}, 10_000
    assert output(worker) == data <> "end"
  end

  test "writing to a program that does not read ends in a timeout and delays nothing" do
    worker = start!(command: "sleep", args: ["60"], stdin: :pipe)
    # A deadline that has passed is the caller's mistake, and no data are lost by it.
    assert_raise FunctionClauseError, fn -> Worker.write(worker, "x", -1) end
    assert {:error, :timeout} = Worker.write(worker, String.duplicate("x", 300_000), 50)

    blocked =
      Task.async(fn -> Worker.write(worker, String.duplicate("x", 300_000), :infinity) end)

    assert {:ok, %Exit{signal: :sigterm}} = Worker.stop(worker)
    assert {:error, :epipe} = Task.await(blocked)
  end

  test "writing to a program that closed its stdin is epipe" do
    worker = start!(shell: "exec 0<&-; echo closed; exec sleep 60", stdin: :pipe)
    assert line(worker) == "closed"
    assert {:error, :epipe} = Worker.write(worker, "x")
  end

  test "writing without a pipe says so" do
    worker = start!(command: "sleep", args: ["60"])
    assert Worker.write(worker, "x") == {:error, :not_piped}
    assert Worker.close_stdin(worker) == {:error, :not_piped}
  end

  describe "ready" do
    test "start returns when a line matches" do
      worker =
        start!(
          shell: "echo starting; sleep 0.1; echo GRPC_READY 5000; exec sleep 60",
          ready: ~r/GRPC_READY/
        )

      assert output(worker) =~ "GRPC_READY"
    end

    test "a port that is listened on" do
      port = free_port()

      script =
        "import socket,time; s=socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); " <>
          "s.bind(('127.0.0.1',#{port})); s.listen(); time.sleep(60)"

      start!(command: "python3", args: ["-c", script], ready: {:tcp, port})
      assert {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [])
      :gen_tcp.close(socket)
    end

    test "a port that another process holds is an error before anything starts" do
      {:ok, listener} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
      {:ok, port} = :inet.port(listener)
      Process.flag(:trap_exit, true)

      assert {:error, {:port_in_use, ^port}} =
               Worker.start_link(command: "sleep", args: ["60"], ready: {:tcp, port})
    end

    test "a timeout ends the tree" do
      Process.flag(:trap_exit, true)
      file = Path.join(System.tmp_dir!(), "leash-ready-#{System.unique_integer([:positive])}")

      assert {:error, :ready_timeout} =
               Worker.start_link(
                 shell: "sleep 60 & echo $$ $! > #{file}; wait",
                 ready: ~r/never/,
                 ready_timeout: 300,
                 on_output: self()
               )

      pids = file |> File.read!() |> String.split()
      File.rm!(file)
      assert length(pids) == 2
      for pid <- pids, do: refute(alive?(pid))
    end

    test "a worker that ends before it is ready says how" do
      Process.flag(:trap_exit, true)

      assert {:error, {:exited, %Exit{status: 7}}} =
               Worker.start_link(shell: "exit 7", ready: ~r/never/, on_output: self())
    end
  end

  describe "exit reasons" do
    test "follow the status" do
      for {shell, reason} <- [
            {"exit 0", :normal},
            {"exit 9", {:exit_status, 9}},
            {"kill -SEGV $$", {:signal, :sigsegv}}
          ] do
        worker = start!(shell: shell)
        assert_receive {:EXIT, ^worker, ^reason}, 5_000
      end
    end

    test "can be mapped" do
      worker =
        start!(
          shell: "exit 75",
          exit_reason: fn %Exit{status: status} -> {:shutdown, {:tempfail, status}} end
        )

      assert_receive {:EXIT, ^worker, {:shutdown, {:tempfail, 75}}}, 5_000
    end
  end

  test "an interpreter that is missing is an exec error" do
    Process.flag(:trap_exit, true)
    path = Path.join(System.tmp_dir!(), "leash-script-#{System.unique_integer([:positive])}")
    File.write!(path, "#!/no/such/interpreter\n")
    File.chmod!(path, 0o755)
    assert {:error, {:exec, :enoent}} = Worker.start_link(command: path)
    File.rm!(path)
  end

  test "run_id_flag appends the run's id" do
    worker = start!(command: "echo", args: ["hello"], run_id_flag: "--run-id")
    assert_receive {:EXIT, ^worker, :normal}, 5_000
    assert output(worker) == "hello --run-id #{Leash.run_id()}\n"
  end

  test "the environment, directory and name are the program's own" do
    worker =
      start!(
        command: "sh",
        args: ["-c", "echo $0 $FOO ${HOME-unset} $(pwd)"],
        env: %{"FOO" => "bär", "HOME" => nil},
        cd: "/usr",
        arg0: "renamed"
      )

    assert_receive {:EXIT, ^worker, :normal}, 5_000
    assert output(worker) == "renamed bär unset /usr\n" or output(worker) == "sh bär unset /usr\n"
  end

  test "a name registers the worker and names the child" do
    worker = start!(command: "sleep", args: ["60"], name: MyNamedWorker)
    assert Process.whereis(MyNamedWorker) == worker
    assert Worker.child_spec(command: "sleep", name: MyNamedWorker).id == MyNamedWorker

    assert Worker.child_spec(command: "sleep", stop: [sigint: 500, sigterm: 1_500]).shutdown ==
             4_000
  end

  test "no descriptor beyond the three reaches the program" do
    worker = start!(shell: "ls /proc/self/fd", stdin: :pipe)
    assert_receive {:EXIT, ^worker, :normal}, 5_000
    # The fourth descriptor is the one that ls itself opened.
    assert worker |> output() |> String.split() |> Enum.sort() == ~w(0 1 2 3)
  end

  defp free_port do
    {:ok, listener} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(listener)
    :ok = :gen_tcp.close(listener)
    port
  end

  defp eventually(condition, tries \\ 200) do
    cond do
      condition.() ->
        true

      tries == 0 ->
        false

      true ->
        receive do
        after
          10 -> eventually(condition, tries - 1)
        end
    end
  end

  describe "a name" do
    test "is its successor's once nothing of the tree is left, also when its Worker was killed" do
      Process.flag(:trap_exit, true)
      # So many programs that it takes longer to end them than to start one.
      shell = "for n in $(seq 300); do sleep 60 & done; echo ready; wait"
      options = [shell: shell, name: __MODULE__.Heir, ready: ~r/ready/, stop: []]
      {:ok, first} = Worker.start_link(options)
      shim = Worker.shim_pid(first)
      os_pid = Worker.os_pid(first)
      {:ok, children} = File.read("/proc/#{os_pid}/task/#{os_pid}/children")
      tree = [shim, os_pid | children |> String.split() |> Enum.map(&String.to_integer/1)]
      assert length(tree) == 302 and Enum.all?(tree, &alive?/1)

      Process.exit(first, :kill)
      assert_receive {:EXIT, ^first, :killed}
      {:ok, second} = Worker.start_link(command: "sleep", args: ["60"], name: __MODULE__.Heir)
      refute Enum.any?(tree, &alive?/1)
      assert alive?(Worker.os_pid(second))
      assert {:ok, _exit} = Worker.stop(second)
    end
  end
end
