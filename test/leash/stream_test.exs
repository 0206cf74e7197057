defmodule Leash.Command.StreamTest do
  use Leash.Test.Case, async: false

  alias Leash.CommandError

  setup do
    nothing_is_listed_after()
  end

  # A line of shell inside a carrier, as arguments of stream!/3.
  defp line(text, carrier), do: ["sh", ["-c", Carrier.enter(carrier) <> text]]

  test "nothing starts before it is run, and each run starts it anew" do
    file = Path.join(tmp_dir!(), "runs")
    stream = Leash.stream!("sh", ["-c", "echo run >>#{file}; cat #{file}"])
    refute File.exists?(file)
    assert Enum.join(stream) == "run\n"
    assert Enum.join(stream) == "run\nrun\n"
  end

  test "a mistake is reported where it is made" do
    for {options, key} <- [
          {[no_such: 1], nil},
          {[max_chunk_size: 0], :max_chunk_size},
          {[stderr: :capture], :stderr},
          {[into: ""], nil},
          {[timeout: -1], :timeout}
        ] do
      error = assert_raise Leash.OptionsError, fn -> Leash.stream!("true", [], options) end
      assert {options, error.key} == {options, key}
    end

    assert_raise ErlangError, ~r/enoent/, fn -> Leash.stream!("leash-no-such-program") end
    assert Leash.list() == []
  end

  test "how it ended is raised, or is the last element" do
    for {line, how, text} <- [
          {"exit 3", {:status, 3}, "status 3"},
          {"kill -KILL $$", {:signal, :sigkill}, "sigkill"},
          {"sleep 90", :timeout, "time"}
        ] do
      options = [shell: true, timeout: 300]

      assert Leash.stream("echo x; " <> line, [], options) |> Enum.to_list() == [
               "x\n",
               {:exit, how}
             ]

      error =
        assert_raise CommandError, fn ->
          Leash.stream!("echo x; " <> line, [], options) |> Enum.to_list()
        end

      assert error.how == how
      assert Exception.message(error) =~ text
    end

    assert Leash.stream("true") |> Enum.to_list() == [{:exit, {:status, 0}}]
    assert Leash.stream!("true") |> Enum.to_list() == []
    assert Leash.stream("true", [], timeout: 0) |> Enum.to_list() == [{:exit, :timeout}]
  end

  test "a timeout holds for what writes without a pause to a reader that is slower" do
    parts = Leash.stream("yes", [], timeout: 300) |> Stream.each(fn _ -> Process.sleep(5) end)
    assert Enum.at(parts, -1) == {:exit, :timeout}
  end

  test "stderr and the size of the parts" do
    line = "printf out; printf err >&2"
    parts = Leash.stream!(line, [], shell: true, stderr: :stream) |> Enum.sort()
    assert parts == [stderr: "err", stdout: "out"]
    assert Leash.stream!(line, [], shell: true, stderr: :null) |> Enum.to_list() == ["out"]
    merged = Leash.stream!(line, [], shell: true, stderr: :stream, stderr_to_stdout: true)
    assert Enum.join(merged) == "outerr"

    parts =
      Leash.stream!("head", ["-c", "100000", "/dev/zero"], max_chunk_size: 1_000)
      |> Enum.to_list()

    assert Enum.all?(parts, &(byte_size(&1) <= 1_000))
    assert IO.iodata_length(parts) == 100_000
  end

  test "both streams come in turn, and a flood on one does not hide the other" do
    line = "yes >&2 & exec sh -c 'while echo x; do sleep 0.01; done'"
    stream = Leash.stream!(line, [], shell: true, stderr: :stream, stop: [sigterm: 300])
    parts = stream |> Stream.filter(&match?({:stdout, _}, &1)) |> Enum.take(3)
    assert [stdout: "x\n", stdout: "x\n", stdout: "x\n"] = parts
  end

  test "half-close: sort, wc and gzip see the end of their input" do
    lines = for n <- Enum.shuffle(1..5_000), do: "#{n}\n"
    sorted = for n <- 1..5_000, into: "", do: "#{n}\n"
    assert Leash.stream!("sort", ["-n"], input: lines) |> Enum.join() == sorted
    assert Leash.stream!("wc", ["-l"], input: Stream.map(lines, & &1)) |> Enum.join() == "5000\n"
    packed = Leash.stream!("gzip", ["-c"], input: lines) |> Enum.to_list()
    assert packed |> IO.iodata_to_binary() |> :zlib.gunzip() == Enum.join(lines)
  end

  test "streams feed streams" do
    numbers = Leash.stream!("seq", ["100000"])
    squeezed = Leash.stream!("gzip", ["-c"], input: numbers)
    back = Leash.stream!("gzip", ["-dc"], input: squeezed)
    assert Leash.stream!("wc", ["-l"], input: back) |> Enum.join() == "100000\n"
  end

  test "a consumer that halts ends all of a chain of streams" do
    [first, second] = [new_carrier(), new_carrier()]
    endless = apply(Leash, :stream!, line("exec yes", first))

    assert [part] =
             apply(Leash, :stream!, line("exec cat", second) ++ [[input: endless]])
             |> Enum.take(1)

    assert "y\ny\n" <> _ = part
    assert_gone(second)
    assert_gone(first, 2_000)
  end

  test "zipped and suspended streams end too" do
    [first, second] = [new_carrier(), new_carrier()]
    yes = apply(Leash, :stream!, line("exec yes", first))
    no = apply(Leash, :stream!, line("exec yes n", second))
    assert [{"y\n" <> _, "n\n" <> _}, _another] = Stream.zip(yes, no) |> Enum.take(2)
    assert_gone(first)
    assert_gone(second)
  end

  test "one that another process continues raises there, says why, and is over" do
    carrier = new_carrier()
    stream = apply(Leash, :stream!, line("echo x; exec sleep 90", carrier))
    step = fn element, _acc -> {:suspend, element} end
    assert {:suspended, "x\n", next} = Enumerable.reduce(stream, {:suspend, nil}, step) |> first()

    task = Task.async(fn -> catch_error(next.({:cont, nil})) end)
    error = Task.await(task, 10_000)
    assert %RuntimeError{message: message} = error
    assert message =~ "continued only by the process that began to read it, #{inspect(self())}"
    assert_gone(carrier)
  end

  test "one that another process halts is over" do
    carrier = new_carrier()
    stream = apply(Leash, :stream!, line("echo x; exec sleep 90", carrier))
    step = fn element, _acc -> {:suspend, element} end
    assert {:suspended, "x\n", next} = Enumerable.reduce(stream, {:suspend, nil}, step) |> first()
    assert {:halted, nil} = Task.await(Task.async(fn -> next.({:halt, nil}) end), 10_000)
    assert_gone(carrier)
  end

  defp first({:suspended, nil, next}), do: next.({:cont, nil})

  describe "an early end:" do
    test "take(1) of yes, from which nothing is read any more" do
      carrier = new_carrier()
      stream = apply(Leash, :stream!, line("sleep 90 & exec yes", carrier))
      {:messages, before} = Process.info(self(), :messages)
      assert [_one] = Enum.take(stream, 1)
      assert_gone(carrier)
      assert Process.info(self(), :messages) == {:messages, before}
    end

    test "a writer gets SIGPIPE as in a shell, before any signal of the ladder" do
      carrier = new_carrier()
      file = Path.join(tmp_dir!(), "how")
      text = "yes; echo $? >#{file}"
      options = [stop: [sigwinch: 2_000]]
      assert [_one] = apply(Leash, :stream!, line(text, carrier) ++ [options]) |> Enum.take(1)
      assert File.read!(file) == "141\n"
      assert_gone(carrier)
    end

    test "one that ignores SIGPIPE and goes on writing" do
      carrier = new_carrier()
      text = "trap '' PIPE TERM; while :; do echo x; done 2>/dev/null"
      options = [stop: [sigterm: 200]]
      assert [_one] = apply(Leash, :stream!, line(text, carrier) ++ [options]) |> Enum.take(1)
      assert_gone(carrier)
    end

    test "the consumer raises" do
      carrier = new_carrier()
      stream = apply(Leash, :stream!, line("sleep 90 & exec yes", carrier))
      assert_raise RuntimeError, "enough", fn -> Enum.each(stream, fn _ -> raise "enough" end) end
      assert_gone(carrier)
    end

    test "the consumer is killed" do
      carrier = new_carrier()
      stream = apply(Leash, :stream!, line("setsid sleep 90 & exec yes", carrier))
      test = self()

      consumer =
        spawn(fn ->
          Enum.each(stream, fn _ ->
            send(test, :got)
            Process.sleep(:infinity)
          end)
        end)

      assert_receive :got, 5_000
      assert Carrier.members(carrier) != []
      Process.exit(consumer, :kill)
      assert_gone(carrier, 2_000)
    end

    test "the source of the input raises" do
      carrier = new_carrier()
      input = Stream.map(["x", "y"], fn part -> if part == "y", do: raise("bad"), else: part end)
      stream = apply(Leash, :stream!, line("exec cat", carrier) ++ [[input: input]])
      assert_raise RuntimeError, "bad", fn -> Enum.to_list(stream) end
      assert_gone(carrier)
    end
  end

  test "an input that waits for the output" do
    consumer = self()

    # The next request depends on the last answer.
    input =
      Stream.resource(
        fn -> {:ask, 1} end,
        fn
          {:ask, n} ->
            send(consumer, {:asked_by, self()})
            {["#{n}\n"], :asked}

          :asked ->
            receive do
              {:answer, "3\n"} ->
                {:halt, :over}

              {:answer, answer} ->
                {[], {:ask, answer |> String.trim() |> String.to_integer() |> Kernel.+(1)}}
            end
        end,
        & &1
      )

    answers =
      for answer <- Leash.stream!("cat", [], input: input) do
        assert_receive {:asked_by, feeder}, 5_000
        send(feeder, {:answer, answer})
        answer
      end

    assert answers == ["1\n", "2\n", "3\n"]
  end

  test "two hundred at once" do
    results =
      1..200
      |> Enum.map(fn n ->
        Task.async(fn ->
          Leash.stream!("sh", ["-c", "cat; echo #{n}"], input: "in ") |> Enum.join()
        end)
      end)
      |> Task.await_many(60_000)

    assert results == for(n <- 1..200, do: "in #{n}\n")
  end

  @tag timeout: 120_000
  @tag :slow
  test "a slow consumer holds the program back, and 1 GB passes through flat memory" do
    vm = start_vm([])
    {pid, _ticks} = vm.identity

    VM.eval(vm, """
    defmodule Slow do
      # Goes on when it is told to.
      def run do
        spawn(fn -> Process.register(self(), :slow); loop() end)
      end

      defp loop do
        total =
          Leash.stream!("head", ["-c", "1G", "/dev/zero"])
          |> Enum.reduce(0, fn part, total ->
            if total == 0, do: pause()
            total + byte_size(part)
          end)

        send(:result, {:total, total})
      end

      defp pause do
        send(:result, :paused)

        receive do
          :run -> :ok
        end
      end
    end

    Process.register(self(), :result)
    Slow.run()
    :ok
    """)

    # The test has read one part. Now the writer sleeps, and does not move.
    VM.eval(vm, "receive do :paused -> :ok end")
    [%{os_pid: os}] = VM.eval(vm, "Leash.list()")
    assert_eventually(fn -> Observer.state(os) == "S" and written(os) >= 65_536 end)
    held = written(os)
    VM.eval(vm, "Process.sleep(300)")
    assert written(os) == held
    assert held < 8_000_000

    before = rss(pid)
    VM.eval(vm, "send(:slow, :run) && :ok")

    most =
      Stream.repeatedly(fn -> {rss(pid), VM.eval(vm, "Process.whereis(:slow) == nil")} end)
      |> Enum.reduce_while(0, fn {now, over?}, most ->
        {if(over?, do: :halt, else: :cont), max(most, now)}
      end)

    assert VM.eval(vm, "receive do {:total, total} -> total end") == 1_073_741_824
    assert most - before < 8_000_000
  end

  # Bytes.
  defp written(pid) do
    [_all, bytes] = Regex.run(~r/^wchar: (\d+)/m, File.read!("/proc/#{pid}/io"))
    String.to_integer(bytes)
  end

  defp rss(pid) do
    [_all, kb] = Regex.run(~r/^VmRSS:\s+(\d+) kB/m, File.read!("/proc/#{pid}/status"))
    String.to_integer(kb) * 1024
  end
end
