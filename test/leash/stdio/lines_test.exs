defmodule Leash.Stdio.LinesTest do
  use Leash.Test.Case, async: true

  alias Leash.OptionsError
  alias Leash.Stdio.Lines

  defp cut(parts, option) do
    {lines, ended} =
      Enum.reduce(parts, {Lines.new(option), []}, fn part, {lines, ended} ->
        {more, lines} = Lines.push(lines, part)
        {lines, ended ++ more}
      end)

    ended ++ Lines.finish(lines)
  end

  # All ways to take a text apart in parts of this size.
  defp parts(text, size), do: for(<<part::binary-size(1) <- text>>, do: part) |> join(size)

  defp join(bytes, size), do: bytes |> Enum.chunk_every(size) |> Enum.map(&Enum.join/1)

  # Both streams have their own pipe and their own order.
  defp seq(from, to), do: Enum.map(from..to, &Integer.to_string/1)

  describe "the cutter" do
    test "gives the same lines, however the bytes arrive" do
      text = "one\n\ntwo\r\nth\xFFree\r\r\n\rfour\n\r\nlast\r"
      expected = ["one", "", "two", "th\xFFree\r", "\rfour", "", "last\r"]
      for size <- 1..byte_size(text), do: assert(cut(parts(text, size), true) == expected)
      assert cut(["a\n"], true) == ["a"]
      assert cut([], true) == []
    end

    test "cuts a longer line into pieces and leaves one of just that size whole" do
      for size <- 1..12, ending <- ["\n", "\r\n", ""] do
        assert cut(parts("abcd" <> ending, size), max: 4) == ["abcd"]
        assert cut(parts("abcde" <> ending, size), max: 4) == ["abcd", "e"]
        assert cut(parts("abcdefgh" <> ending, size), max: 4) == ["abcd", "efgh"]
        # No piece holds half of a character.
        assert cut(parts("abcéf" <> ending, size), max: 4) == ["abc", "éf"]
      end
    end

    test "holds no more than a piece of an endless line" do
      data = String.duplicate("x", 1_000)

      Enum.reduce(1..100, Lines.new(max: 1_024), fn _n, lines ->
        {_pieces, lines} = Lines.push(lines, data)
        assert lines.size <= 1_025
        lines
      end)
    end

    test "of a number keeps carriage returns and lines of any length, as System.cmd/3 does" do
      long = String.duplicate("x", 2_000_000)
      assert cut(["a\r\n", long, long, "\nb"], 1) == ["a\r", long <> long, "b"]
    end
  end

  describe "lines: of a stream" do
    test "makes lines of what comes in any parts" do
      line = "printf 'a'; sleep 0.05; printf 'b\\r\\n\\nc\\377\\n'; printf end"

      assert Enum.to_list(Leash.stream!("sh", ["-c", line], lines: true)) ==
               ["ab", "", "c\xFF", "end"]

      stream = Leash.stream!("seq", ["20000"], lines: true, max_chunk_size: 7)
      assert Enum.to_list(stream) == seq(1, 20_000)
    end

    test "keeps the lines of the two streams apart, and the unfinished ones of both" do
      line = "printf a; printf 1 >&2; sleep 0.05; printf 'b\\nc'; printf '2\\n3' >&2; exit 3"
      options = [lines: true, stderr: :stream]

      assert {last, elements} =
               List.pop_at(Enum.to_list(Leash.stream("sh", ["-c", line], options)), -1)

      assert last == {:exit, {:status, 3}}
      assert for({:stdout, text} <- elements, do: text) == ["ab", "c"]
      assert for({:stderr, text} <- elements, do: text) == ["12", "3"]
    end

    test "delivers the last line of a command whose time is over" do
      options = [lines: true, timeout: 200]
      stream = Leash.stream("sh", ["-c", "printf 'a\\nb'; exec sleep 60"], options)
      assert Enum.to_list(stream) == ["a", "b", {:exit, :timeout}]
    end

    test "bounds an endless line, and holds the program back" do
      stream = Leash.stream!("tr", ["\\0", "x"], lines: [max: 1_000], input: zeros())
      assert Enum.map(Enum.take(stream, 500), &byte_size/1) == List.duplicate(1_000, 500)
    end
  end

  defp zeros, do: Stream.repeatedly(fn -> <<0::size(8_000)>> end)

  test "lines: of cmd gives lines without their carriage returns, and a number keeps these" do
    call = ["printf", ["a\\r\\nbcdef\\ng"]]
    assert apply(Leash, :cmd, call ++ [[lines: true, into: []]]) == {["a", "bcdef", "g"], 0}

    assert apply(Leash, :cmd, call ++ [[lines: [max: 4], into: []]]) ==
             {["a", "bcde", "f", "g"], 0}

    assert apply(Leash, :cmd, call ++ [[lines: 4, into: []]]) == {["a\r", "bcdef", "g"], 0}
    assert apply(Leash, :cmd, call ++ [[lines: false]]) == {"a\r\nbcdef\ng", 0}
  end

  describe "lines: of a Worker" do
    test "gives a pid one message for each line" do
      line = "printf a; sleep 0.05; printf 'b\\r\\n\\nc'; printf 'x\\ny' >&2"
      {:ok, worker} = Worker.start_link(shell: line, on_output: self(), lines: true)
      assert_receive {:EXIT, ^worker, :normal}, 5_000
      assert received(worker, :stdout) == ["ab", "", "c"]
      assert received(worker, :stderr) == ["x", "y"]
    end

    test "calls a function once for each line, in order" do
      test = self()
      take = fn stream, line -> send(test, {:line, stream, line}) end
      options = [command: "seq", args: ["5000"], on_output: take, lines: true]
      {:ok, worker} = Worker.start_link(options)
      assert_receive {:EXIT, ^worker, :normal}, 5_000
      for n <- seq(1, 5_000), do: assert_received({:line, :stdout, ^n})
      refute_received {:line, _, _}
    end

    test "keeps within the window of a pid, which gets all of them once it takes them" do
      decoy = start_decoy("lines")
      test = self()

      taker =
        spawn_link(fn ->
          receive do
            {:go, count} -> send(test, {:taken, for(_n <- 1..count, do: take_line())})
          end
        end)

      options = [
        command: "seq",
        args: ["50000"],
        on_output: taker,
        lines: true,
        output_window: 20
      ]

      {:ok, worker} = Worker.start_link(options)
      await_full(taker, 20)
      # The kernel's pipe is not the whole output, so the program is held back.
      assert {:message_queue_len, length} = Process.info(taker, :message_queue_len)
      assert length in 20..23
      send(taker, {:go, 50_000})
      assert_receive {:taken, lines}, 20_000
      assert lines == seq(1, 50_000)
      assert_receive {:EXIT, ^worker, :normal}, 5_000
      assert_unharmed(decoy)
    end

    test "gives a taker of everything to the end, when the Worker is killed" do
      line = "seq 3000; echo done; exec sleep 60"
      options = [shell: line, on_output: self(), lines: true, ready: ~r/^done/, output_window: 5]
      {:ok, worker} = Worker.start_link(options)
      sleep = Observer.identity(Worker.os_pid(worker))
      assert Observer.alive?(sleep)
      Process.exit(worker, :kill)
      assert_receive {:EXIT, ^worker, :killed}
      assert_eventually(fn -> not Observer.alive?(sleep) end)
      assert take_until("done", worker) == seq(1, 3_000)
    end

    test "leaves the log as it is" do
      log =
        ExUnit.CaptureLog.capture_log(fn ->
          {:ok, worker} = Worker.start_link(shell: "printf 'lines-1\\nlines-2'", lines: true)
          assert_receive {:EXIT, ^worker, :normal}, 5_000
        end)

      assert log =~ "lines-1"
      assert log =~ "lines-2"
    end
  end

  test "what is no such option is refused with a sentence, from Erlang, too" do
    for {value, words} <- [{:yes, "true, false or"}, {[max: 3], "from 4 to"}, {[most: 9], "max"}] do
      error = assert_raise OptionsError, fn -> Leash.stream!("true", [], lines: value) end

      assert Exception.message(error) =~ words
    end

    assert_raise OptionsError, ~r/true, false/, fn ->
      Worker.start_link(command: "true", lines: 3)
    end

    assert :leash.cmd(~c"printf", [~c"abcde\\r\\nf"], %{lines: %{max: 4}, into: []}) ==
             {["abcd", "e", "f"], 0}
  end

  defp received(worker, stream) do
    receive do
      {:leash_output, ^worker, ^stream, line} -> [line | received(worker, stream)]
    after
      0 -> []
    end
  end

  defp take_line do
    receive do
      {:leash_output, _worker, :stdout, line} -> line
    end
  end

  defp take_until(last, worker) do
    receive do
      {:leash_output, ^worker, :stdout, ^last} -> []
      {:leash_output, ^worker, :stdout, line} -> [line | take_until(last, worker)]
    after
      5_000 -> flunk("no #{last}")
    end
  end

  defp await_full(pid, count) do
    assert_eventually(fn ->
      {:message_queue_len, length} = Process.info(pid, :message_queue_len)
      length >= count
    end)
  end
end
