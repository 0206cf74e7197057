defmodule Leash.Command.CollectTest do
  use Leash.Test.Case, async: false

  alias Leash.Test.{Matrix, SlowCollectable}

  setup do
    before = {Port.list(), Process.list()}

    on_exit(fn ->
      assert_eventually(fn -> Leash.list() == [] end)
      assert_eventually(fn -> Port.list() -- elem(before, 0) == [] end)
    end)
  end

  # The command of `start_tree/2`, as arguments of cmd/3.
  defp words(what, carrier) do
    [command: program, args: args, stop: stop] = command(what, carrier)
    {program, args, stop}
  end

  describe "as System.cmd/3:" do
    test "output, status and every option give the same" do
      dir = tmp_dir!()
      File.write!(Path.join(dir, "here"), "")

      for call <- [
            {"echo", ["hello"], []},
            {"true", [], []},
            {"false", [], []},
            {"sh", ["-c", "exit 255"], []},
            {"sh", ["-c", "kill -9 $$"], []},
            {"sh", ["-c", "kill -TERM $$"], []},
            {"echo", ["hello"], [into: []]},
            {"printf", ["a\\nb\\n\\nc"], [into: MapSet.new()]},
            {"ls", [], [cd: dir]},
            {"ls", [], [cd: Path.relative_to_cwd(dir)]},
            {"sh", ["-c", "echo $FOO-${HOME-none}"], [env: [{"FOO", "bar"}, {"HOME", nil}]]},
            {"sh", ["-c", "echo $FOO"], [env: %{"FOO" => "bär"}]},
            {"sh", ["-c", "echo $0"], [arg0: "another"]},
            {"sh", ["-c", "echo out; echo err >&2"], [stderr_to_stdout: true]},
            {"echo", ["hello"], [parallelism: true]},
            {"printf", ["%s|", "", "a b", "ä", <<255, 1>>], []},
            {"/bin/echo", ["an absolute path"], []},
            {"sh", ["-c", "sleep 0.2 & echo first; (sleep 0.1; echo second) & exit 3"], []}
          ] do
        {program, args, options} = call

        assert {call, Leash.cmd(program, args, options)} ==
                 {call, System.cmd(program, args, options)}
      end
    end

    if Version.match?(System.version(), ">= 1.15.0") do
      test "lines: gives the same" do
        for text <- ["a\\nb\\n", "a\\n\\nb", "", "\\n", "no newline"] do
          call = ["printf", [text], [lines: 1024, into: []]]
          assert {text, apply(Leash, :cmd, call)} == {text, apply(System, :cmd, call)}
        end
      end
    end

    test "lines: gives lines, however they arrive, into what is asked for" do
      assert Leash.cmd("printf", ["a\\n\\nb"], lines: 1, into: []) == {["a", "", "b"], 0}
      assert Leash.cmd("printf", ["a\\nb"], lines: 1) == {"ab", 0}

      assert Leash.cmd("printf", ["a\\na\\n"], lines: 1, into: MapSet.new()) ==
               {MapSet.new(["a"]), 0}

      parts = "for i in 1 2 3; do printf $i; sleep 0.02; printf \"$i\\n\"; done"
      assert Leash.cmd("sh", ["-c", parts], lines: 1, into: []) == {["11", "22", "33"], 0}
      long = String.duplicate("x", 1_000_000)

      assert {[^long, "end"], 0} =
               Leash.cmd("cat", [], lines: 1, into: [], input: [long, "\nend\n"])
    end

    test "the output can be streamed to another device" do
      {:ok, device} = StringIO.open("")
      stream = IO.binstream(device, :line)
      assert {^stream, 0} = Leash.cmd("echo", ["hello"], into: stream)
      assert StringIO.contents(device) == {"", "hello\n"}
    end

    test "what cannot be run is the same error, and nothing starts" do
      dir = tmp_dir!()
      plain = Path.join(dir, "plain")
      File.write!(plain, "#!/bin/sh\n")

      for {program, args} <- [
            {"leash-no-such-program", []},
            {"/no/such/program", []},
            {"./no-such-program", []},
            {plain, []}
          ] do
        theirs = assert_raise ErlangError, fn -> System.cmd(program, args) end
        ours = assert_raise ErlangError, fn -> Leash.cmd(program, args) end
        assert {program, ours.original} == {program, theirs.original}
      end

      for {program, args} <- [
            {"null\0byte", []},
            {"echo", [:atom]},
            {"echo", :none},
            {~c"echo", []}
          ] do
        assert_raise ArgumentError, fn -> Leash.cmd(program, args) end
      end

      assert Leash.list() == []
    end

    test "a line as command, whose error says how arguments are given" do
      for call <- [fn -> Leash.cmd("sleep 1") end, fn -> Leash.open_port("sleep 1") end] do
        {error, stacktrace} =
          try do
            call.()
          catch
            :error, error -> {error, __STACKTRACE__}
          end

        assert error == :enoent

        assert Exception.format(:error, error, stacktrace) =~
                 ~S|:enoent: program and arguments are given apart: "sleep", ["1"]|
      end
    end

    test "a script without an interpreter line, and one whose interpreter is missing" do
      dir = tmp_dir!()

      for {name, text} <- [{"none", "exit 3\n"}, {"missing", "#!/no/such/interpreter\n"}] do
        path = Path.join(dir, name)
        File.write!(path, text)
        File.chmod!(path, 0o755)
        assert_raise ErlangError, ~r/enoexec|enoent/, fn -> Leash.cmd(path) end
      end
    end

    test "the VM's own stdin, stdout and stderr" do
      vm = start_vm([])

      VM.command(
        vm,
        "eval " <>
          Base.encode64(
            ~s|Leash.cmd("sh", ["-c", "echo to stdout; echo to stderr >&2"], use_stdio: false)|
          )
      )

      assert VM.await_line(vm, "to stdout") == ""

      assert vm |> VM.await_line("done ") |> Base.decode64!() |> :erlang.binary_to_term() ==
               {"", 0}

      assert VM.log(vm) =~ "to stderr"
      # The program must not get the leash and the channel of the reports.
      count = ~s|Leash.cmd("sh", ["-c", "exit $(ls /proc/$$/fd \| wc -l)"], use_stdio: |
      assert VM.eval(vm, count <> "false)") == VM.eval(vm, count <> "true)")
    end
  end

  describe "options:" do
    test "every mistake is named before anything starts" do
      for {options, key, text} <- [
            {[no_such: 1], nil, "no_such"},
            {[timeout: -1], :timeout, "milliseconds"},
            {[timeout: :never], :timeout, "milliseconds"},
            {[max_output: 1.5], :max_output, "bytes"},
            {[stderr: :stream], :stderr, ":inherit, :capture, :null"},
            {[stderr: {:file, "/no/such/directory/log"}], :stderr, "directory"},
            {[stderr: {:file, ""}], :stderr, "file"},
            {[input: 17], :input, "iodata"},
            {[input: fn _ -> "x" end], :input, "iodata"},
            {[input: "x", use_stdio: false], :input, "use_stdio"},
            {[shell: "yes"], :shell, "true or false"},
            {[cd: "/no/such/directory"], :cd, "enoent"},
            {[env: [{"A=B", "c"}]], :env, "name"},
            {[env: :none], :env, ""},
            {[stop: [sigfoo: 100]], :stop, "sigfoo"},
            {[lines: 0], :lines, "positive"},
            {[arg0: "a\0b"], :arg0, "NUL"}
          ] do
        error = assert_raise Leash.OptionsError, fn -> Leash.cmd("true", [], options) end
        assert {options, error.key} == {options, key}
        assert Exception.message(error) =~ text
      end

      error = assert_raise Leash.OptionsError, fn -> Leash.cmd("echo a", ["b"], shell: true) end
      assert error.key == :args
      assert for(%{kind: :command} = row <- Leash.list(), do: row) == []
    end

    test "shell: runs a line" do
      assert Leash.cmd("echo a | tr a b; exit 4", [], shell: true) == {"b\n", 4}
    end

    test "stderr goes where it is sent" do
      line = ["-c", "printf out; printf err >&2; exit 5"]
      file = Path.join(tmp_dir!(), "log")
      File.write!(file, "before ")
      assert Leash.cmd("sh", line, stderr: :capture) == {{"out", "err"}, 5}
      assert Leash.cmd("sh", line, stderr: :null) == {"out", 5}
      assert Leash.cmd("sh", line, stderr: {:file, file}) == {"out", 5}
      assert File.read!(file) == "before err"
      assert Leash.cmd("true", [], stderr: :capture) == {{"", ""}, 0}
      assert {{["out"], "err"}, 5} = Leash.cmd("sh", line, stderr: :capture, into: [])
      assert {"outerr", 5} = Leash.cmd("sh", line, stderr: :capture, stderr_to_stdout: true)
    end

    test "stderr is the VM's by default" do
      vm = start_vm([])

      assert VM.eval(vm, ~s|Leash.cmd("sh", ["-c", "echo out; echo from the program >&2"])|) ==
               {"out\n", 0}

      assert VM.log(vm) =~ "from the program"
    end

    test "input: iodata, charlists, enumerables, streams, functions and files" do
      file = Path.join(tmp_dir!(), "input")
      File.write!(file, "line 1\nline 2\n")

      for {input, expected} <- [
            {"text", "text"},
            {"", ""},
            {[], ""},
            {["a", [?b | "c"], ~c"d"], "abcd"},
            {1..3 |> Stream.map(&"#{&1},"), "1,2,3,"},
            {MapSet.new(["x"]), "x"},
            {File.stream!(file), "line 1\nline 2\n"},
            {fn acc, fun -> Enumerable.reduce(["by ", "function"], acc, fun) end, "by function"},
            {Leash.stream!("seq", ["3"]), "1\n2\n3\n"}
          ] do
        assert {input, Leash.cmd("cat", [], input: input)} == {input, {expected, 0}}
      end
    end

    test "an input that fails ends the tree and is raised here" do
      for {source, check} <- [
            {fn -> raise "bad" end, &match?({:error, %RuntimeError{message: "bad"}}, &1)},
            {fn -> throw(:ball) end, &match?({:throw, :ball}, &1)},
            {fn -> exit(:gone) end, &match?({:exit, :gone}, &1)},
            {fn -> :no_iodata end, &match?({:error, %ArgumentError{}}, &1)}
          ] do
        carrier = new_carrier()
        {program, args, stop} = words({:sh, "sleep 90 & wait"}, carrier)

        # The program is there before the source fails.
        input =
          Stream.resource(
            fn -> nil end,
            fn acc ->
              assert_eventually(fn -> Carrier.members(carrier) != [] end)
              {[source.()], acc}
            end,
            fn _acc -> :ok end
          )

        failed =
          try do
            Leash.cmd(program, args, stop: stop, input: input)
          rescue
            error -> {:error, error}
          catch
            kind, reason -> {kind, reason}
          end

        assert check.(failed), inspect(failed)
        assert_gone(carrier)
      end
    end

    test "the source of the input is asked for nothing before the start and after the end" do
      test = self()

      source =
        Stream.repeatedly(fn ->
          send(test, :asked)
          "line\n"
        end)

      assert_raise ErlangError, fn -> Leash.cmd("/no/such/program", [], input: source) end
      refute_received :asked

      assert Leash.cmd("head", ["-n", "1"], input: source) == {"line\n", 0}
      assert_received :asked

      # A source that waits for an item that never comes.
      stuck =
        Stream.map([1], fn _ ->
          send(test, {:stuck, self()})
          Process.sleep(:infinity)
        end)

      assert Leash.cmd("sh", ["-c", "read x </dev/null; sleep 0.1; echo over"], input: stuck) ==
               {"over\n", 0}

      assert_received {:stuck, feeder}
      refute Process.alive?(feeder)
    end

    test "max_output: cuts there and ends the tree" do
      for {options, expected} <- [
            {[max_output: 5], "y\ny\ny"},
            {[max_output: 0], ""},
            {[max_output: 100_001], String.duplicate("y\n", 50_000) <> "y"}
          ] do
        carrier = new_carrier()
        {program, args, stop} = words({:sh, "sleep 90 & yes"}, carrier)
        assert {^expected, :max_output} = Leash.cmd(program, args, [stop: stop] ++ options)
        assert_gone(carrier)
      end

      assert Leash.cmd("echo", ["1234"], max_output: 5) == {"1234\n", 0}

      assert {{_out, err}, :max_output} =
               Leash.cmd("sh", ["-c", "yes >&2"], stderr: :capture, max_output: 1_000)

      assert byte_size(err) == 1_000
    end

    test "run_id_flag: appends the run's id" do
      assert Leash.cmd("echo", ["x"], run_id_flag: "--run-id") ==
               {"x --run-id #{Leash.run_id()}\n", 0}
    end
  end

  describe "timeout:" do
    @tag :slow
    test "of every shape of a tree nothing is left when it returns, and a decoy is" do
      decoy = start_decoy("another")

      shapes = for {_title, key} <- Matrix.shapes(), key not in [:shell, :never_reads], do: key

      Enum.map(shapes, fn shape ->
        carrier = new_carrier()
        {program, args, stop} = words(shape, carrier)

        Task.async(fn ->
          result = Leash.cmd(program, args, stop: stop, timeout: 4_000)
          {shape, result, Carrier.members(carrier)}
        end)
      end)
      |> Task.await_many(30_000)
      |> Enum.each(fn {shape, result, left} ->
        assert {shape, left} == {shape, []}
        assert {"ready" <> _pids, :timeout} = result
      end)

      assert_unharmed(decoy)
    end

    test "what the tree still writes while it ends is there" do
      script = "trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.05; done"
      assert Leash.cmd("sh", ["-c", script], timeout: 500) == {"hello\nbye\n", :timeout}
    end

    test "also counts a program that has closed its stdout" do
      carrier = new_carrier()
      {program, args, stop} = words({:sh, "exec >&-; sleep 90"}, carrier)
      assert Leash.cmd(program, args, stop: stop, timeout: 300) == {"", :timeout}
      assert_gone(carrier)
    end

    test "is not the fate of a program that ends in time" do
      assert Leash.cmd("echo", ["x"], timeout: 30_000) == {"x\n", 0}
      assert Leash.cmd("sleep", ["90"], timeout: 0) == {"", :timeout}
    end

    test "it holds for what writes without a pause to a reader that is slower" do
      into = %SlowCollectable{ms: 5}
      assert {^into, :timeout} = Leash.cmd("yes", [], timeout: 300, into: into)
    end

    test "what was collected is given up where the start fails" do
      into = %SlowCollectable{ms: 0, tell: self()}

      assert_raise ErlangError, fn ->
        Leash.cmd("/bin/true", List.duplicate(String.duplicate("x", 100_000), 30), into: into)
      end

      assert_received :halted
    end
  end

  describe "a leader that exits first:" do
    test "a process that holds stdout is waited for" do
      assert Leash.cmd("sh", ["-c", "(sleep 0.3; echo late) & exit 7"]) == {"late\n", 7}
    end

    test "a process that does not is ended" do
      carrier = new_carrier()

      {program, args, stop} =
        words(
          {:sh, "sleep 90 >/dev/null 2>&1 & setsid sleep 90 >/dev/null 2>&1 & echo x"},
          carrier
        )

      assert Leash.cmd(program, args, stop: stop) == {"x\n", 0}
      assert_gone(carrier)
    end

    test "a daemon that holds stderr is ended, whatever becomes of stderr" do
      for stderr <- [:null, :inherit] do
        carrier = new_carrier()

        {program, args, stop} =
          words({:sh, "setsid sh -c 'exec sleep 90 >/dev/null' & echo x"}, carrier)

        assert Leash.cmd(program, args, stop: stop, stderr: stderr) == {"x\n", 0}
        assert_gone(carrier)
      end
    end

    test "a process that holds stdout for ever is ended by the timeout" do
      carrier = new_carrier()
      {program, args, stop} = words({:sh, "sleep 90 & echo x; exit 6"}, carrier)
      assert Leash.cmd(program, args, stop: stop, timeout: 400) == {"x\n", 6}
      assert_gone(carrier)
    end

    test "a process outside of the tree that holds stdout does not keep the call" do
      fifo = Path.join(tmp_dir!(), "fifo")
      {_, 0} = System.cmd("mkfifo", [fifo])

      outside =
        Port.open({:spawn_executable, "/bin/sh"}, [
          :binary,
          args: ["-c", "read path <#{fifo}; exec 8>$path; echo open >#{fifo}; exec sleep 20"]
        ])

      line = "echo x; echo /proc/$$/fd/1 >#{fifo}; read open <#{fifo}"
      assert Leash.cmd("sh", ["-c", line], timeout: 15_000) == {"x\n", 0}
      {:os_pid, outside_pid} = Port.info(outside, :os_pid)
      Observer.signal(Observer.identity(outside_pid), "KILL")
      assert_receive {:EXIT, ^outside, _reason}, 5_000
    end
  end

  describe "no deadlock:" do
    test "100 MB in and out of cat at once" do
      data = :crypto.strong_rand_bytes(1_000_000)
      {output, 0} = Leash.cmd("cat", [], input: Stream.map(1..100, fn _ -> data end), into: [])
      assert IO.iodata_length(output) == 100_000_000
      assert :crypto.hash(:md5, output) == :crypto.hash(:md5, :binary.copy(data, 100))
    end

    test "a program that never reads 10 MB of input" do
      input = :binary.copy("x", 10_000_000)
      assert Leash.cmd("sh", ["-c", "echo done"], input: input) == {"done\n", 0}
      assert Leash.cmd("sleep", ["90"], input: input, timeout: 200) == {"", :timeout}
    end

    test "one that closes stdout and lives, one that closes stdin and writes" do
      assert Leash.cmd("sh", ["-c", "echo x; exec >&-; sleep 0.2; exit 9"]) == {"x\n", 9}
      line = "exec <&-; sleep 0.1; head -c 1000000 /dev/zero"
      assert {output, 0} = Leash.cmd("sh", ["-c", line], input: :binary.copy("x", 1_000_000))
      assert byte_size(output) == 1_000_000
    end

    test "a flood on stderr while stdout is idle" do
      line = "head -c 5000000 /dev/zero >&2; echo over"
      assert {{"over\n", err}, 0} = Leash.cmd("sh", ["-c", line], stderr: :capture)
      assert byte_size(err) == 5_000_000
      assert {"over\n", 0} = Leash.cmd("sh", ["-c", line], stderr: :null)
    end
  end

  describe "fidelity:" do
    test "random bytes of random sizes come back equal" do
      for _ <- 1..40 do
        data = :crypto.strong_rand_bytes(:rand.uniform(300_000) - 1)
        assert Leash.cmd("cat", [], input: data) == {data, 0}
      end
    end

    test "arguments are bytes, and so are file names" do
      args = ["", " ", "-", "--", "ä", <<255, 254>>, "a\nb", "$HOME", "`x`", "'", "\"", "\\"]
      assert {output, 0} = Leash.cmd("printf", ["%s\\0" | args])
      assert String.split(output, <<0>>) == args ++ [""]

      dir = tmp_dir!()
      name = <<"caf", 0xE9>>
      assert {"", 0} = Leash.cmd("touch", [Path.join(dir, name)])
      assert Leash.cmd("ls", ["-N"], cd: dir) == {name <> "\n", 0}
    end

    test "an argument as long as one can be, and one that is longer" do
      longest = String.duplicate("x", 131_071)
      assert {output, 0} = Leash.cmd("printf", ["%s", longest])
      assert output == longest

      error =
        assert_raise Leash.OptionsError, fn -> Leash.cmd("printf", ["%s", longest <> "x"]) end

      assert error.key == :args
    end

    test "3,000 arguments and an environment of 1,000" do
      args = for n <- 1..3_000, do: "argument #{n}"
      assert {output, 0} = Leash.cmd("printf", ["%s\\n" | args])
      assert String.split(output, "\n", trim: true) == args

      env = for n <- 1..1_000, do: {"LEASH_TEST_#{n}", String.duplicate("v", 50) <> "#{n}"}
      assert {output, 0} = Leash.cmd("env", ["-0"], env: env)
      lines = String.split(output, <<0>>)
      for {name, value} <- env, do: assert("#{name}=#{value}" in lines)
    end
  end

  describe "the caller:" do
    test "keeps its messages, in their order, and gets none of ours" do
      send(self(), :first)
      send(self(), {make_ref(), :second})
      {_output, 0} = Leash.cmd("sh", ["-c", "echo x; echo y >&2"], stderr: :capture, input: "x")
      {_output, :timeout} = Leash.cmd("sleep", ["90"], timeout: 50)
      {_output, :max_output} = Leash.cmd("yes", [], max_output: 1)
      assert_raise ErlangError, fn -> Leash.cmd("/no/such") end
      assert {:messages, [:first, {_ref, :second}]} = Process.info(self(), :messages)
    end

    test "whose Collectable raises gets that, and the tree is gone" do
      carrier = new_carrier()
      {program, args, stop} = words({:sh, "sleep 90 & echo x; sleep 90"}, carrier)
      sink = %Leash.Test.Sink{fun: fn _ -> raise "full" end}

      assert_raise RuntimeError, "full", fn ->
        Leash.cmd(program, args, stop: stop, into: sink)
      end

      assert_gone(carrier)
    end
  end

  test "without the application it says so" do
    vm = start_vm([])

    assert VM.eval(vm, """
           Application.stop(:leash)
           try do
             Leash.cmd("true")
           rescue
             error in Leash.Error -> Exception.message(error)
           end
           """) =~ ":leash application is not started"
  end

  @tag timeout: 120_000
  @tag :slow
  test "10,000 commands leave no descriptor, port, process, row or atom" do
    vm = start_vm([])
    {pid, _ticks} = vm.identity

    run = fn n ->
      VM.eval(
        vm,
        """
        1..#{n}
        |> Task.async_stream(fn n ->
             case rem(n, 5) do
               0 -> {"", 0} = Leash.cmd("/bin/true")
               1 -> {"x\\n", 0} = Leash.cmd("/bin/echo", ["x"])
               2 -> {{"y", ""}, 0} = Leash.cmd("/bin/cat", [], input: "y", stderr: :capture)
               3 -> ["z\\n"] = Leash.stream!("/bin/echo", ["z"]) |> Enum.take(1)
               4 ->
                 port = Leash.open_port("/bin/true", [], [:exit_status])
                 receive do {^port, {:exit_status, 0}} -> :ok end
             end
           end, max_concurrency: 8, ordered: false, timeout: 60_000)
        |> Enum.count(&match?({:ok, _}, &1))
        """,
        110_000
      )
    end

    # The Reaper's next look gives rows back.
    inside = fn ->
      VM.eval(
        vm,
        "{length(Port.list()), length(Process.list()), :erlang.system_info(:atom_count), length(Leash.Registry.all())}"
      )
    end

    outside = fn -> {length(File.ls!("/proc/#{pid}/fd")), length(Carrier.members(vm.carrier))} end

    assert run.(200) == 200
    assert_eventually(fn -> match?({_, _, _, 0}, inside.()) end)
    before = {inside.(), outside.()}
    assert run.(10_000) == 10_000
    assert_eventually(fn -> match?({_, _, _, 0}, inside.()) end)
    assert_eventually(fn -> outside.() == elem(before, 1) end)
    {{ports, processes, atoms, 0}, _} = before
    assert {^ports, now, now_atoms, 0} = inside.()
    assert now <= processes + 2
    assert now_atoms <= atoms + 50
  end
end
