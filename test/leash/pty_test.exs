defmodule Leash.PtyTest do
  @moduledoc "The terminal of `pty:`, as its program and the rest of the system see it."

  use Leash.Test.Case, async: false

  alias Leash.OptionsError
  alias Leash.Test.Screen

  describe "a command" do
    test "has a terminal as stdin, stdout and stderr" do
      assert {"/dev/pts/" <> number, 0} = Leash.cmd("tty", [], pty: true)
      assert number =~ ~r/\A\d+\r\n\z/
      line = "for fd in 0 1 2; do readlink /proc/$$/fd/$fd; done"
      assert {text, 0} = Leash.cmd("sh", ["-c", line], pty: true)
      assert [device, device, device] = String.split(text)
      assert device =~ "/dev/pts/"
    end

    test "has the size that was asked for, and 24 by 80 otherwise" do
      assert Leash.cmd("stty", ["size"], pty: [rows: 10, cols: 40]) == {"10 40\r\n", 0}
      assert Leash.cmd("stty", ["size"], pty: true) == {"24 80\r\n", 0}
      assert Leash.cmd("stty", ["size"], pty: [cols: 132]) == {"24 132\r\n", 0}
      assert Leash.cmd("stty", ["size"], pty: [rows: 65_535, cols: 1]) == {"65535 1\r\n", 0}
    end

    test "has none without the option, or with false" do
      assert {_not_a_tty, 1} = Leash.cmd("tty", [], stdin: :null)
      assert {_not_a_tty, 1} = Leash.cmd("tty", [], stdin: :null, pty: false)
      assert {_not_a_tty, 1} = Leash.cmd("tty", [], stdin: :null, pty: nil)
    end

    test "writes to one stream, with CR LF" do
      line = "echo out; echo err >&2"
      assert Leash.cmd("sh", ["-c", line], pty: true) == {"out\r\nerr\r\n", 0}
      both = [pty: true, stderr_to_stdout: true]
      assert Leash.cmd("sh", ["-c", line], both) == {"out\r\nerr\r\n", 0}
      assert "sh" |> Leash.stream!(["-c", line], pty: true) |> Enum.join() == "out\r\nerr\r\n"
    end

    test "gets its status as without a terminal" do
      assert Leash.cmd("sh", ["-c", "exit 7"], pty: true) == {"", 7}
      assert Leash.cmd("sh", ["-c", "kill -TERM $$"], pty: true) == {"", 143}
      assert Leash.cmd("sleep", ["60"], pty: true, timeout: 50) == {"", :timeout}
    end

    test "gives whole lines without their CR LF where they are asked for" do
      assert "seq" |> Leash.stream!(["3"], pty: true, lines: true) |> Enum.to_list() ==
               ["1", "2", "3"]

      assert Leash.cmd("seq", ["3"], pty: true, lines: true, into: []) == {["1", "2", "3"], 0}
    end

    test "is ended where it is silent for too long" do
      options = [pty: true, timeout: [idle: 200]]

      assert Leash.cmd("sh", ["-c", "echo a; exec sleep 60"], options) ==
               {"a\r\n", {:timeout, :idle}}
    end

    @tag needs: :another_user
    test "of another user owns its terminal, and opens it by name" do
      line = "id -un; echo opened > \"$(tty)\""
      options = [pty: true, user: "nobody"]
      assert Leash.cmd("sh", ["-c", line], options) == {"nobody\r\nopened\r\n", 0}
    end

    test "finds echo off before it begins" do
      assert {text, 0} = Leash.cmd("stty", ["-a"], pty: [echo: false])
      assert text =~ " -echo "
      assert {text, 0} = Leash.cmd("stty", ["-a"], pty: true)
      assert text =~ " echo "
      assert text =~ " iutf8"
    end
  end

  describe "the environment" do
    setup do
      before = for name <- ["TERM", "LINES", "COLUMNS"], do: {name, System.get_env(name)}
      System.put_env([{"TERM", "vt52"}, {"LINES", "7"}, {"COLUMNS", "7"}])

      on_exit(fn ->
        for {name, value} <- before,
            do: if(value, do: System.put_env(name, value), else: System.delete_env(name))
      end)
    end

    @show ["-c", "echo $TERM ${LINES-none} ${COLUMNS-none}"]

    test "describes this terminal, and not that of the VM" do
      assert Leash.cmd("sh", @show, pty: true) == {"xterm-256color none none\r\n", 0}
      # The VM's own is handed on to a program without a terminal.
      assert Leash.cmd("sh", @show) == {"vt52 7 7\n", 0}
    end

    test "is what :env says" do
      env = [{"TERM", "dumb"}, {"LINES", "5"}]
      assert Leash.cmd("sh", @show, pty: true, env: env) == {"dumb 5 none\r\n", 0}
      assert Leash.cmd("sh", @show, pty: true, env: %{"TERM" => nil}) == {"none none\r\n", 0}
    end

    test "describes the terminal although it is cleared" do
      shown = {"xterm-256color none none\r\n", 0}
      assert Leash.cmd("/bin/sh", @show, pty: true, env: :clear) == shown
      assert Leash.cmd("/bin/sh", @show, pty: true, clear_env: true) == shown
    end
  end

  describe "a worker" do
    test "leads a session whose controlling terminal it has, in the foreground" do
      tree = start_tree({:sh, "echo ready $$; exec sleep 60"}, pty: true)
      {pid, _ticks} = tree.os
      assert %{pgrp: ^pid, session: ^pid, tty: tty, foreground: ^pid} = terminal(pid)
      assert %{pty: %{device: device, rows: 24, cols: 80}} = Worker.info(tree.worker)
      assert tty == number(device)
      assert {:ok, %Exit{signal: :sigterm}} = Worker.stop(tree.worker)
      assert_gone(tree)
    end

    test "leaves its shim and the run's warden without a terminal" do
      tree = start_tree({:sh, "echo ready $$; exec sleep 60"}, pty: true)
      {shim, _ticks} = tree.shim
      assert terminal(shim).tty == 0
      assert terminal(Leash.Warden.os_pid()).tty == 0

      for supervisor <- [shim, Leash.Warden.os_pid(), String.to_integer(System.pid())],
          do: assert(slaves(supervisor) == [])

      Worker.stop(tree.worker)
    end

    test "reports that it has a terminal only where it has one" do
      tree = start_tree({:sh, "echo ready $$; exec sleep 60"})
      refute Map.has_key?(Worker.info(tree.worker), :pty)
      Worker.stop(tree.worker)
    end

    test "gets another terminal when it is started again" do
      masters = masters()
      tree = start_tree({:sh, "echo ready $$; exec sleep 60"}, pty: [rows: 5, cols: 50])
      assert Worker.resize(tree.worker, 6, 60) == :ok
      assert {:ok, %Exit{signal: :sigterm}} = Worker.restart(tree.worker)
      refute Observer.alive?(tree.os)
      assert %{pty: %{rows: 5, cols: 50}, os_pid: pid} = Worker.info(tree.worker)
      assert %{session: ^pid, foreground: ^pid} = terminal(pid)
      assert Worker.resize(tree.worker, 6, 60) == :ok
      assert_eventually(fn -> masters() == masters + 2 end)
      Worker.stop(tree.worker)
      assert_eventually(fn -> masters() == masters end)
    end

    test "is ready by a line of its terminal" do
      ready = [pty: true, ready: ~r/^ready$/]
      tree = start_tree({:sh, "echo ready >&2; exec sleep 60"}, [on_output: self()] ++ ready)
      Worker.stop(tree.worker)
    end

    test "is logged line by line" do
      log =
        ExUnit.CaptureLog.capture_log(fn ->
          {:ok, worker} = Worker.start_link(command: "echo", args: ["a line"], pty: true)
          assert_receive {:EXIT, ^worker, :normal}, 10_000
        end)

      assert log =~ "echo: a line\n"
      refute log =~ "\r"
    end
  end

  # A session leader gets the first terminal that it opens, unless it says that it wants none
  # (open(2), O_NOCTTY). A program of Leash leads a session.
  test "a VM that leads a session without a terminal stays without" do
    code = """
    {:ok, _} = Application.ensure_all_started(:leash)
    {"/dev/pts/" <> _, 0} = Leash.cmd("tty", [], pty: true)
    IO.write(File.read!("/proc/self/stat"))
    """

    paths = for path <- :code.get_path(), to_string(path) =~ ~r{/leash/ebin$}, do: path
    args = Enum.flat_map(paths, &["-pa", to_string(&1)]) ++ ["-e", code]
    env = [{"LEASH_RUN_DIR", tmp_dir!()}]
    assert {text, 0} = Leash.cmd("elixir", args, env: env, timeout: 60_000)
    assert %{session: pid, pgrp: pid, tty: 0} = fields(text)
  end

  test "the VM closes the terminal" do
    masters = masters()
    assert {_text, 0} = Leash.cmd("tty", [], pty: true)
    assert {_text, 0} = Leash.cmd("cat", [], pty: true, input: "a\n")
    assert [_part | _] = "tty" |> Leash.stream!([], pty: true) |> Enum.to_list()
    tree = start_tree({:sh, "echo ready $$; exec sleep 60"}, pty: true)
    assert masters() > masters
    Worker.stop(tree.worker)
    # The VM's poll set closes a descriptor a moment later.
    assert_eventually(fn -> masters() == masters end)
  end

  describe "a wrong option" do
    test "is named with what is expected" do
      for {pty, path} <- [
            {1, []},
            {:yes, []},
            {[rows: 0], [:pty, :rows]},
            {[rows: "24"], [:pty, :rows]},
            {[cols: 65_536], [:pty, :cols]},
            {[cols: nil], [:pty, :cols]},
            {[echo: 1], [:pty, :echo]},
            {[rows: 5, rows: 6], [:pty, :rows]},
            {[row: 5], [:pty, nil]}
          ],
          call <- calls() do
        error = assert_raise OptionsError, fn -> call.(pty: pty) end
        assert {pty, error.key, error.path} == {pty, :pty, path}
      end

      error = assert_raise OptionsError, fn -> Leash.cmd("true", [], pty: [row: 5]) end
      assert Exception.message(error) =~ "rows"
    end

    test "is one that says something else about a stream" do
      for {options, key} <- [
            {[stdin: :null], :stdin},
            {[stdin: :open], :stdin},
            {[stdout: :null], :stdout},
            {[stdout: {:file, "/tmp/x"}], :stdout},
            {[stderr: :null], :stderr},
            {[stderr: :output], :stderr},
            {[on_stderr: :log], :on_stderr},
            {[on_exit: :detach, name: :detached], :on_exit}
          ] do
        worker = [command: "true", pty: true] ++ options
        error = assert_raise OptionsError, fn -> Worker.start_link(worker) end
        assert {options, error.key} == {options, key}
        assert Exception.message(error) =~ "terminal"
      end

      for {options, key} <- [
            {[stdin: :null], :stdin},
            {[stdout: :null], :stdout},
            {[stdout: {:file, "/tmp/x"}], :stdout},
            {[stderr: :capture], :stderr},
            {[stderr: :null], :stderr},
            {[stderr: :inherit], :stderr},
            {[stderr: {:file, "/tmp/x"}], :stderr},
            {[use_stdio: false], :use_stdio}
          ] do
        error = assert_raise OptionsError, fn -> Leash.cmd("true", [], [pty: true] ++ options) end
        assert {options, error.key} == {options, key}
        assert Exception.message(error) =~ "terminal"
      end

      stream = [pty: true, stderr: :stream]
      assert_raise OptionsError, fn -> Leash.stream!("true", [], stream) end
    end

    test "is none where it says what is so anyway" do
      same = [pty: true, stdin: :pipe, stdout: :output, stderr: :stdout]
      assert {:ok, worker} = Worker.start_link([command: "true"] ++ same)
      assert_receive {:EXIT, ^worker, :normal}, 10_000
      assert {"", 0} = Leash.cmd("true", [], pty: true, stdin: :open)
    end

    test "is the option of a port" do
      error = assert_raise OptionsError, fn -> Leash.open_port("true", [], pty: true) end
      assert error.key == :pty
      assert Exception.message(error) =~ "Leash.Worker"
    end
  end

  defp calls do
    [
      &Worker.start_link([command: "true"] ++ &1),
      &Leash.cmd("true", [], &1),
      &Leash.stream("true", [], &1)
    ]
  end

  describe "from Erlang" do
    test "a command has a terminal" do
      size = {"10 40\r\n", 0}
      assert :leash.cmd(~c"stty", [~c"size"], %{pty: %{rows: 10, cols: 40}}) == size
      assert :leash.cmd(~c"stty", [~c"size"], pty: [rows: 10, cols: 40]) == size
      assert {"/dev/pts/" <> _, 0} = :leash.cmd(~c"tty", [], [:pty])
    end

    test "a worker is typed to and resized" do
      options = %{command: ~c"sh", pty: true, on_output: self(), env: [{~c"PS1", ~c"> "}]}
      {:ok, worker} = :leash.start_link(options)
      assert :leash.resize(worker, 11, 22) == :ok
      Screen.type(worker, "stty size\n")
      Screen.read_until(worker, "11 22\r\n")
      assert :leash.close_stdin(worker) == :ok
      assert_receive {:EXIT, ^worker, :normal}, 10_000
    end

    test "a wrong size is an error of Leash" do
      assert_raise OptionsError, fn -> :leash.cmd(~c"true", [], %{pty: %{rows: 0}}) end
    end
  end

  # A devpts of its own that has room for one terminal.
  @one "mount -t devpts -o newinstance,max=1,ptmxmode=666 devpts /dev/pts && " <>
         "mount --bind /dev/pts/ptmx /dev/ptmx && exec \"$@\""

  @tag needs: :mounts
  test "a machine without a free terminal is an error of the start" do
    vm = start_vm([], prefix: "unshare --mount sh -c '#{@one}' sh")

    code = """
    Process.flag(:trap_exit, true)
    start = fn -> Leash.Worker.start_link(command: "sleep", args: ["60"], pty: true) end
    {:ok, first} = start.()
    second = start.()
    raised = try do Leash.cmd("true", [], pty: true) rescue error -> error end
    {:ok, _} = Leash.Worker.stop(first)
    # The VM's poll set closes a descriptor a moment later.
    third = Stream.repeatedly(start) |> Enum.find(&match?({:ok, _}, &1))
    {:ok, _} = Leash.Worker.stop(elem(third, 1))
    {second, raised, length(Leash.list())}
    """

    assert {{:error, {:pty, :enospc}} = error, %ErlangError{original: :enospc}, 0} =
             VM.eval(vm, code)

    assert Leash.Error.format(elem(error, 1)) =~ "pty: "
  end

  ## The outside view

  defp terminal(pid), do: fields(File.read!("/proc/#{pid}/stat"))

  # proc(5): pgrp, session, tty_nr and tpgid are the fields 5 to 8.
  defp fields(stat) do
    [_state, _parent, pgrp, session, tty, foreground | _] =
      stat |> String.split(") ") |> List.last() |> String.split() |> Enum.take(6) |> numbers()

    %{pgrp: pgrp, session: session, tty: tty, foreground: foreground}
  end

  defp numbers([state | numbers]), do: [state | Enum.map(numbers, &String.to_integer/1)]

  # The number of a device, as proc(5) and makedev(3) have it: 136 is the major one of slaves.
  defp number("/dev/pts/" <> minor), do: 136 * 256 + String.to_integer(minor)

  defp slaves(pid), do: Enum.filter(links(pid), &(&1 =~ "/dev/pts/"))
  defp masters, do: Enum.count(links("self"), &(&1 =~ "ptmx"))

  defp links(pid) do
    for fd <- File.ls!("/proc/#{pid}/fd"),
        {:ok, target} <- [File.read_link("/proc/#{pid}/fd/#{fd}")],
        do: target
  end
end
