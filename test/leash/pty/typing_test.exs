defmodule Leash.Pty.TypingTest do
  @moduledoc "What is typed into the terminal of `pty:`, and its size."

  use Leash.Test.Case, async: false

  alias Leash.OptionsError
  alias Leash.Test.Screen

  # Without job control of its own, so that the terminal's signals are all there is.
  defp open(line, options \\ []) do
    defaults = [pty: true, on_output: self(), ready: nil]
    start_tree({:sh, line}, Keyword.merge(defaults, options))
  end

  describe "write" do
    test "types: echo, and an erased character" do
      tree = open("echo go; read line; echo \"got $line\"; sleep 60")
      Screen.read_until(tree.worker, "go\r\n")
      Screen.type(tree.worker, "ax\x7Fb\n")
      assert Screen.read_until(tree.worker, ~r/got .*\r\n/) =~ "got ab\r\n"
      Worker.stop(tree.worker)
    end

    test "erases a character of more than one byte as a whole" do
      tree = open("echo go; read line; echo \"got $line\"; sleep 60")
      Screen.read_until(tree.worker, "go\r\n")
      Screen.type(tree.worker, "aß\x7Fb\n")
      assert Screen.read_until(tree.worker, ~r/got .*\r\n/) =~ "got ab\r\n"
      Worker.stop(tree.worker)
    end

    test "types Ctrl-C, which interrupts the foreground group" do
      tree = open("trap 'echo interrupted; exit 3' INT; echo go; while :; do sleep 0.02; done")
      Screen.read_until(tree.worker, "go\r\n")
      Screen.type(tree.worker, "\x03")
      assert {shown, {:exit_status, 3}} = Screen.read_to_end(tree.worker)
      assert shown =~ "interrupted\r\n"
      assert_gone(tree)
    end

    test "types Ctrl-\\, which ends a program by SIGQUIT" do
      tree = open("ulimit -c 0; echo go; exec sleep 60")
      Screen.read_until(tree.worker, "go\r\n")
      Screen.type(tree.worker, "\x1C")
      assert {_shown, {:signal, :sigquit}} = Screen.read_to_end(tree.worker)
    end

    test "types nothing special once the program reads single characters" do
      tree = open("stty raw -echo; echo go; head -c 4 | od -An -tx1; stty sane; exit 5")
      Screen.read_until(tree.worker, "go")
      Screen.type(tree.worker, "\x03\x04\x1A\r")
      assert {shown, {:exit_status, 5}} = Screen.read_to_end(tree.worker)
      assert shown =~ "03 04 1a 0d"
    end

    test "holds back the writer of a program that does not read, and loses nothing" do
      # More than terminal and line discipline take.
      text = :binary.copy("0123456789", 50_000)
      sum = :crypto.hash(:md5, text) |> Base.encode16(case: :lower)
      line = "stty raw -echo; echo go; read x; head -c 500000 | md5sum; exit 5"
      tree = open(line)
      Screen.read_until(tree.worker, "go")
      assert Worker.write(tree.worker, text, 100) == {:error, :timeout}
      # What was taken of it is not to be read by md5sum.
      Worker.stop(tree.worker)

      tree = open(line)
      Screen.read_until(tree.worker, "go")
      Screen.type(tree.worker, "\n")
      assert Worker.write(tree.worker, text, 30_000) == :ok
      assert {shown, {:exit_status, 5}} = Screen.read_to_end(tree.worker)
      assert shown =~ sum
    end
  end

  describe "close_stdin" do
    test "is the end of input for a program that reads lines, and the terminal stays open" do
      tree = open("cat; echo one; cat; echo two; read line; echo \"got $line\"; exit 6")
      Screen.type(tree.worker, "a line\n")
      Screen.read_until(tree.worker, "a line\r\na line\r\n")
      assert Worker.close_stdin(tree.worker) == :ok
      Screen.read_until(tree.worker, "one\r\n")
      assert Worker.close_stdin(tree.worker) == :ok
      Screen.read_until(tree.worker, "two\r\n")
      Screen.type(tree.worker, "more\n")
      assert {shown, {:exit_status, 6}} = Screen.read_to_end(tree.worker)
      assert shown =~ "got more\r\n"
    end

    test "ends a line that was begun" do
      tree = open("cat; echo over; exit 6", pty: [echo: false])
      Screen.type(tree.worker, ["unfini", "shed"])
      assert Worker.close_stdin(tree.worker) == :ok
      assert {"unfinishedover\r\n", {:exit_status, 6}} = Screen.read_to_end(tree.worker)
    end

    test "types the character that the program has chosen" do
      tree = open("stty eof ^X; echo go; cat; echo over; exit 6")
      Screen.read_until(tree.worker, "go\r\n")
      assert Worker.close_stdin(tree.worker) == :ok
      assert {shown, {:exit_status, 6}} = Screen.read_to_end(tree.worker)
      assert shown =~ "over\r\n"
    end

    test "types nothing where there is no such character" do
      tree = open("stty eof undef; echo go; read line; echo \"got <$line>\"; exit 6")
      Screen.read_until(tree.worker, "go\r\n")
      assert Worker.close_stdin(tree.worker) == :ok
      Screen.type(tree.worker, "x\n")
      assert {shown, {:exit_status, 6}} = Screen.read_to_end(tree.worker)
      assert shown =~ "got <x>\r\n"
    end

    test "is a step of the ladder" do
      stop = [close_stdin: 20_000, sigkill: 0]
      tree = open("trap '' HUP TERM; echo go; cat; exit 7", stop: stop)
      Screen.read_until(tree.worker, "go\r\n")
      assert {:ok, %Exit{status: 7, step: :close_stdin}} = Worker.stop(tree.worker)
      assert_gone(tree)
    end
  end

  describe "the input of a command" do
    test "is typed, and its end, too" do
      quiet = [pty: [echo: false]]

      for {input, output} <- [
            {"a\nb\n", "a\r\nb\r\n"},
            {"a\nb", "a\r\nb"},
            {["a", [?\n, "b"]], "a\r\nb"},
            {Stream.map(["a\n", "", "b\n"], & &1), "a\r\nb\r\n"},
            {"", ""},
            {[], ""},
            {Stream.take(["x"], 0), ""}
          ] do
        assert {input, Leash.cmd("cat", [], [input: input, timeout: 10_000] ++ quiet)} ==
                 {input, {output, 0}}
      end
    end

    test "is seen where the terminal shows it" do
      assert {shown, 0} = Leash.cmd("cat", [], pty: true, input: "a\n", timeout: 10_000)
      assert shown == "a\r\na\r\n"
    end

    test "ends by a step of the ladder" do
      options = [pty: [echo: false], stop: [close_stdin: 20_000, sigkill: 0], timeout: 200]
      never = Stream.map([1], fn _part -> Process.sleep(:infinity) end)

      for input <- [nil, never] do
        line = "trap '' HUP TERM; cat; echo over"
        assert Leash.cmd("sh", ["-c", line], [input: input] ++ options) == {"over\r\n", :timeout}
      end
    end

    test "that fails ends the command" do
      failing = Stream.map([1], fn _part -> raise "no input" end)

      assert_raise RuntimeError, "no input", fn ->
        Leash.cmd("cat", [], pty: true, input: failing, timeout: 10_000)
      end
    end
  end

  describe "resize" do
    test "tells the foreground group once for each change" do
      tree =
        open("""
        trap 'stty size; echo told' WINCH
        trap 'exit 8' INT
        stty size; echo go
        while :; do sleep 0.02; done
        """)

      assert Screen.read_until(tree.worker, "go\r\n") =~ "24 80\r\n"
      assert Worker.resize(tree.worker, 50, 132) == :ok
      assert Screen.read_until(tree.worker, "told\r\n") =~ "50 132\r\n"
      assert %{pty: %{rows: 50, cols: 132}} = Worker.info(tree.worker)
      assert Worker.resize(tree.worker, 50, 132) == :ok
      assert Worker.resize(tree.worker, 1, 65_535) == :ok
      assert Screen.read_until(tree.worker, "told\r\n") == "1 65535\r\ntold\r\n"
      Screen.type(tree.worker, "\x03")
      assert {_shown, {:exit_status, 8}} = Screen.read_to_end(tree.worker)
      assert Worker.resize(tree.worker, 50, 132) == {:error, :noproc}
    end

    test "without a terminal, or with a wrong size, is an error" do
      {:ok, worker} = Worker.start_link(command: "sleep", args: ["60"])
      assert Worker.resize(worker, 50, 132) == {:error, :no_pty}
      assert Leash.Error.format(:no_pty) =~ ":pty"

      for {rows, cols, key} <- [
            {0, 80, :rows},
            {24, 65_536, :cols},
            {nil, 80, :rows},
            {24, 80.0, :cols},
            {24, "80", :cols}
          ] do
        error = assert_raise OptionsError, fn -> Worker.resize(worker, rows, cols) end
        assert error.key == key
      end

      Worker.stop(worker)
    end
  end

  describe "job control of an interactive shell" do
    setup do
      tree = open("exec bash --norc --noprofile -i", env: [{"PS1", "$ "}, {"TERM", "dumb"}])
      Screen.read_until(tree.worker, "$ ")
      %{worker: tree.worker, tree: tree, decoy: start_decoy("beside a shell")}
    end

    # The echo of the line does not match what is waited for: `""` tells them apart.
    defp run(worker, line), do: Screen.type(worker, line <> "\n")

    test "stops a job by Ctrl-Z and brings it back", %{worker: worker} = context do
      run(worker, "sh -c 'echo re\"\"ady; read line; echo \"got $line\"'")
      Screen.read_until(worker, "ready\r\n")
      Screen.type(worker, "\x1A")
      Screen.read_until(worker, "Stopped")
      run(worker, "echo still he\"\"re")
      Screen.read_until(worker, "still here\r\n")
      run(worker, "fg")
      run(worker, "a line")
      Screen.read_until(worker, "got a line\r\n")
      run(worker, "exit 4")
      assert {_shown, {:exit_status, 4}} = Screen.read_to_end(worker)
      assert_gone(context.tree)
      assert_unharmed(context.decoy)
    end

    test "goes on with a job in the background", %{worker: worker} = context do
      run(worker, "sleep 61")
      [job] = descendants(context.tree, ["sleep", "61"])
      Screen.type(worker, "\x1A")
      Screen.read_until(worker, "Stopped")
      assert_eventually(fn -> Observer.state(job) == "T" end)
      run(worker, "bg")
      assert_eventually(fn -> Observer.state(job) == "S" end)
      run(worker, "jobs; echo do\"\"ne")
      assert Screen.read_until(worker, "done\r\n") =~ "Running"
      run(worker, "kill %1; wait; echo go\"\"ne")
      Screen.read_until(worker, "gone\r\n")
      assert_eventually(fn -> Observer.state(job) == nil end)
      # A job in the background that reads the terminal stops.
      run(worker, "cat &")
      [job] = descendants(context.tree, ["cat"])
      assert_eventually(fn -> Observer.state(job) == "T" end)
      assert {:ok, %Exit{}} = Worker.stop(worker)
      assert_gone(context.tree)
      assert_unharmed(context.decoy)
    end

    test "interrupts the job and not the shell", %{worker: worker} = context do
      run(worker, "sleep 62")
      [_job] = descendants(context.tree, ["sleep", "62"])
      Screen.type(worker, "\x03")
      run(worker, "echo status $?")
      # From the prompt on, the shell reads single characters.
      Screen.read_until(worker, "status 130\r\n$ ")
      Worker.close_stdin(worker)
      assert {_shown, :normal} = Screen.read_to_end(worker)
    end
  end

  defp descendants(tree, argv) do
    found = fn ->
      for {pid, _ticks} <- Leash.Test.Carrier.members(tree.carrier),
          Observer.argv(pid) == argv,
          do: pid
    end

    assert_eventually(fn -> found.() != [] end)
    found.()
  end
end
