defmodule Leash.OSProcessTest do
  # Counts the pidfds of the whole VM, so nothing else may open any meanwhile.
  use ExUnit.Case, async: false

  alias Leash.OSProcess

  doctest OSProcess

  describe "identify/1 and alive?/1" do
    test "a process is alive until it ends, and its zombie is dead" do
      {os_pid, port} = sleeper()
      {:ok, process} = OSProcess.identify(os_pid)
      assert process.pid == os_pid
      assert process.start_ticks == stat(os_pid, 22)
      assert OSProcess.alive?(process) and OSProcess.alive?(os_pid)

      end_from_outside(os_pid)
      assert_receive {^port, {:exit_status, 137}}
      refute OSProcess.alive?(process)
      refute OSProcess.alive?(os_pid)
      assert OSProcess.identify(os_pid) == {:error, :esrch}

      {zombie, _port} = child_of(~s(p = os.fork\(\) or os._exit\(0\); print\(p, flush=True\)))
      assert eventually(fn -> state(zombie) == "Z" end)
      refute OSProcess.alive?(zombie)
      assert {:error, :esrch} = OSProcess.signal(zombie, :sigterm)
    end

    test "a process whose first thread has ended while another runs is alive" do
      {os_pid, _port} =
        child_of("""
        import threading, ctypes
        threading.Thread(target=time.sleep, args=(60,)).start()
        print(os.getpid(), flush=True)
        ctypes.CDLL(None).pthread_exit(None)
        """)

      assert eventually(fn -> state(os_pid) == "Z" end)
      {:ok, process} = OSProcess.identify(os_pid)
      assert OSProcess.alive?(process)
      assert {:ok, %{step: :kill}} = OSProcess.kill(process, stop: [])
      refute OSProcess.alive?(process)
    end

    test "a handle does not mean the process that has the number now" do
      {os_pid, _port} = sleeper()
      {:ok, process} = OSProcess.identify(os_pid)
      stale = %{process | start_ticks: process.start_ticks - 1}

      refute OSProcess.alive?(stale)
      assert OSProcess.signal(stale, :sigkill) == {:error, :reused}
      assert OSProcess.kill(stale) == {:error, :reused}
      assert OSProcess.info(stale) == {:error, :reused}
      assert OSProcess.children(stale) == {:error, :reused}
      ref = OSProcess.monitor(stale)
      assert_receive {:DOWN, ^ref, :os_process, ^stale, :noproc}

      if process.pidfs_inode do
        # The twin was born in the same tick, and is still another process.
        twin = %{process | pidfs_inode: process.pidfs_inode + 1}
        assert OSProcess.signal(twin, :sigkill) == {:error, :reused}
      end

      assert running?(os_pid)
    end

    test "a thread's number belongs to no process" do
      {:ok, %{threads: threads}} = OSProcess.info(vm())
      assert threads > 1

      thread =
        Enum.find(File.ls!("/proc/self/task"), &(&1 != System.pid())) |> String.to_integer()

      assert OSProcess.identify(thread) == {:error, :unknown}
      assert_raise ErlangError, fn -> OSProcess.alive?(thread) end
    end

    test "0, 1, negatives and what is no number are the caller's mistake" do
      for bad <- [0, 1, -1, -5, 1.0, "12", nil, :pid, 0x80000000, %{pid: 5}] do
        for call <- [
              &OSProcess.identify/1,
              &OSProcess.alive?/1,
              &OSProcess.info/1,
              &OSProcess.signal(&1, :sigterm),
              &OSProcess.kill/1,
              &OSProcess.monitor/1,
              &OSProcess.children/1
            ] do
          error = assert_raise ArgumentError, fn -> call.(bad) end
          assert error.message =~ "expected a Leash.OSProcess handle or a process number"
          assert error.message =~ inspect(bad)
        end
      end
    end
  end

  describe "info/1" do
    test "tells what the process table tells" do
      {os_pid, _port} = sleeper()
      {:ok, info} = OSProcess.info(os_pid)
      assert info.pid == os_pid
      assert info.ppid == stat(os_pid, 4)
      assert info.state in ["R", "S"]
      assert info.args == [System.find_executable("sleep"), "60"]
      assert info.command =~ "sleep 60"
      assert info.threads == 1
      assert info.start_ticks == stat(os_pid, 22)
      assert info.rss_bytes > 0
      {uid, 0} = System.cmd("id", ["-u"])
      assert info.uid == uid |> String.trim() |> String.to_integer()
    end

    test "finds the tag in the environment, and only a whole one" do
      tag = "s59m65f.12.4711.123456.4026531836.0a1b2c3d"
      {tagged, _port} = sleeper(env: [{~c"LEASH_RUN", to_charlist(tag)}])
      assert {:ok, %{run: run}} = OSProcess.info(tagged)
      assert run == %{run_id: "s59m65f", worker: 12, carrier: :env}

      {decoy, _port} = sleeper(env: [{~c"LEASH_RUN", to_charlist(tag <> "x")}])
      {:ok, %{run: other}} = OSProcess.info(decoy)
      assert other == nil or other.run_id != "s59m65f"
    end

    test "arguments that are no text come as they are" do
      {os_pid, _port} = sleeper(args: ["60", <<"0", ?.>>])
      assert {:ok, %{args: [_sleep, "60", "0."]}} = OSProcess.info(os_pid)
    end
  end

  describe "signal/2" do
    test "reaches the process and no other" do
      {os_pid, port} = sleeper()
      {decoy, _port} = sleeper()
      assert running?(os_pid) and running?(decoy)
      assert OSProcess.signal(os_pid, :sigterm) == :ok
      assert_receive {^port, {:exit_status, 143}}
      assert running?(decoy)
    end

    test "takes names and numbers, real-time signals too, and refuses the rest" do
      {os_pid, port} = sleeper()

      for bad <- [0, 65, -9, :sigfoo, "TERM", nil] do
        error = assert_raise ArgumentError, fn -> OSProcess.signal(os_pid, bad) end
        assert error.message =~ "expected a signal"
        assert error.message =~ "got: #{inspect(bad)}"
        if bad == "TERM", do: assert(error.message =~ "(did you mean :sigterm?)")
      end

      assert running?(os_pid)
      assert OSProcess.signal(os_pid, 34) == :ok
      assert_receive {^port, {:exit_status, 162}}
    end

    test "the vm, its ancestors, kernel threads and pid 1 are refused" do
      assert OSProcess.signal(vm(), :sigterm) == {:error, {:refused, :vm}}
      parent = stat(vm(), 4)

      if parent > 1 do
        assert OSProcess.signal(parent, :sigterm) == {:error, {:refused, :ancestor}}
        assert OSProcess.kill(parent) == {:error, {:refused, :ancestor}}
      end

      init = %OSProcess{pid: 1, start_ticks: stat(1, 22)}
      assert OSProcess.signal(init, :sigterm) == {:error, {:refused, :pid_1}}

      if kernel_thread = Enum.find(2..50, &kernel_thread?/1) do
        refused = {:error, {:refused, :kernel_thread}}
        assert OSProcess.signal(kernel_thread, :sigterm) == refused
      end
    end
  end

  describe "kill/2" do
    test "a process that obeys ends in the first step" do
      {os_pid, _port} = sleeper()
      assert {:ok, %{step: 0, signal: :sigterm, elapsed_ms: ms}} = OSProcess.kill(os_pid)
      assert ms < 1_000
      refute running?(os_pid)
    end

    test "a process that ignores the steps is killed" do
      {os_pid, _port} = stubborn("INT TERM")
      steps = [sigint: 30, sigterm: 60]
      assert {:ok, %{step: :kill, signal: :sigkill} = ended} = OSProcess.kill(os_pid, stop: steps)
      assert ended.elapsed_ms >= 90
      refute running?(os_pid)
    end

    test "a stopped process gets to obey" do
      {os_pid, _port} = sleeper()
      {_, 0} = System.cmd("kill", ["-STOP", "#{os_pid}"])
      assert eventually(fn -> state(os_pid) == "T" end)
      assert {:ok, %{step: 0, signal: :sigterm}} = OSProcess.kill(os_pid)
      refute running?(os_pid)
    end

    test "no steps at all is sigkill at once" do
      {os_pid, _port} = stubborn("TERM")
      assert {:ok, %{step: :kill, signal: :sigkill}} = OSProcess.kill(os_pid, stop: [])
      refute running?(os_pid)
    end

    test "the second step may be the one, and waits for ever where told" do
      {os_pid, _port} = stubborn("INT")
      steps = [sigint: 20, sigterm: :infinity]
      assert {:ok, %{step: 1, signal: :sigterm}} = OSProcess.kill(os_pid, stop: steps)
    end

    test "what has ended before is no success" do
      {os_pid, port} = sleeper()
      {:ok, process} = OSProcess.identify(os_pid)
      end_from_outside(os_pid)
      assert_receive {^port, {:exit_status, _}}
      assert OSProcess.kill(process) in [{:error, :esrch}, {:error, :reused}]
    end

    test "leaves neither messages nor descriptors" do
      before = pidfds()

      for _ <- 1..20 do
        {os_pid, port} = sleeper()
        {:ok, _} = OSProcess.kill(os_pid)
        assert_receive {^port, {:exit_status, _}}
      end

      assert eventually(fn -> pidfds() <= before end)
      refute_received _any
    end

    test "two callers at once both learn that it is gone" do
      {os_pid, _port} = stubborn("TERM")
      {:ok, process} = OSProcess.identify(os_pid)
      kill = fn -> OSProcess.kill(process, stop: [sigterm: 50]) end
      assert [{:ok, _}, {:ok, _}] = Task.await_many([Task.async(kill), Task.async(kill)])
    end

    test "bad options are the caller's mistake" do
      {os_pid, _port} = sleeper()

      for bad <- [
            [stop: :now],
            [stop: [:sigterm]],
            [stop: [sigterm: -1]],
            [stop: [{:sigfoo, 1}]],
            [stop: [{0, 1}]],
            [grace: 5],
            5
          ] do
        assert_raise ArgumentError, fn -> OSProcess.kill(os_pid, bad) end
      end

      assert running?(os_pid)
    end
  end

  describe "monitor/1 and demonitor/1" do
    test "every monitor gets its message, once" do
      {os_pid, _port} = sleeper()
      {:ok, process} = OSProcess.identify(os_pid)
      refs = for _ <- 1..3, do: OSProcess.monitor(process)
      refute_received {:DOWN, _, _, _, _}

      end_from_outside(os_pid)
      for ref <- refs, do: assert_receive({:DOWN, ^ref, :os_process, ^process, :exited})
      refute_received {:DOWN, _, _, _, _}
    end

    test "a process that is no child, of a bare number, is watched as well" do
      {os_pid, _port} =
        child_of("print(os.spawnvp(os.P_NOWAIT, 'sleep', ['sleep', '60']), flush=True)")

      ref = OSProcess.monitor(os_pid)
      end_from_outside(os_pid)
      assert_receive {:DOWN, ^ref, :os_process, %OSProcess{pid: ^os_pid}, :exited}
    end

    test "an ended process is reported at once" do
      {os_pid, port} = sleeper()
      {:ok, process} = OSProcess.identify(os_pid)
      end_from_outside(os_pid)
      assert_receive {^port, {:exit_status, _}}
      ref = OSProcess.monitor(process)
      assert_receive {:DOWN, ^ref, :os_process, ^process, :noproc}
      ref = OSProcess.monitor(os_pid)
      assert_receive {:DOWN, ^ref, :os_process, ^os_pid, :noproc}
    end

    test "after demonitor there is no message, not even one that had come" do
      {os_pid, _port} = sleeper()
      early = OSProcess.monitor(os_pid)
      late = OSProcess.monitor(os_pid)
      witness = OSProcess.monitor(os_pid)
      assert OSProcess.demonitor(early)

      end_from_outside(os_pid)
      assert_receive {:DOWN, ^witness, :os_process, _, :exited}
      assert OSProcess.demonitor(late)
      refute_received {:DOWN, _, _, _, _}
      assert OSProcess.demonitor(late)
      assert OSProcess.demonitor(make_ref())
    end

    test "monitors leave no descriptor when they fire, are taken back, or their process dies" do
      before = pidfds()
      {os_pid, _port} = sleeper()
      {:ok, process} = OSProcess.identify(os_pid)

      for _ <- 1..100, do: OSProcess.demonitor(OSProcess.monitor(process))
      assert eventually(fn -> pidfds() <= before end)

      test = self()

      {watching, watching_monitor} =
        spawn_monitor(fn ->
          for _ <- 1..100, do: OSProcess.monitor(process)
          send(test, :watching)
          Process.sleep(:infinity)
        end)

      assert_receive :watching
      assert pidfds() >= before + 100
      Process.exit(watching, :kill)
      assert_receive {:DOWN, ^watching_monitor, :process, ^watching, :killed}
      assert eventually(fn -> pidfds() <= before end)

      refs = for _ <- 1..100, do: OSProcess.monitor(process)
      end_from_outside(os_pid)
      for ref <- refs, do: assert_receive({:DOWN, ^ref, :os_process, ^process, :exited})
      assert eventually(fn -> pidfds() <= before end)
    end
  end

  describe "children/1" do
    test "lists them by handle, those of every thread, and not their children" do
      {parent, _port} =
        child_of("""
        import subprocess, threading
        subprocess.Popen(["sleep", "60"])
        t = threading.Thread(target=subprocess.Popen, args=(["sh", "-c", "sleep 4; true"],))
        t.start(); t.join()
        print(os.getpid(), flush=True)
        """)

      assert {:ok, [one, other]} = OSProcess.children(parent)
      assert OSProcess.alive?(one) and OSProcess.alive?(other)
      outside = parent |> pgrep_children() |> Enum.sort()
      assert Enum.sort([one.pid, other.pid]) == outside

      {lonely, _port} = sleeper()
      assert OSProcess.children(lonely) == {:ok, []}
    end
  end

  # A sleeper that ends by itself, and with its test.
  defp sleeper(options \\ []) do
    {args, options} = Keyword.pop(options, :args, ["60"])
    start(System.find_executable("sleep"), [{:args, args} | options])
  end

  defp stubborn(signals) do
    script = "trap '' #{signals}; echo ready; exec sleep 60"
    {os_pid, port} = start(System.find_executable("sh"), args: ["-c", script], line: 80)
    assert_receive {^port, {:data, {:eol, ~c"ready"}}}, 5_000
    {os_pid, port}
  end

  # Runs Python that prints one number, and then waits a minute.
  defp child_of(code) do
    args = ["-c", "import os, time\n" <> code <> "\ntime.sleep(60)"]

    # Its output shows that it was executed. Its first thread may have ended by the time of the
    # look.
    {python, port} = open(System.find_executable("python3"), args: args, line: 80)
    assert_receive {^port, {:data, {:eol, number}}}, 5_000
    os_pid = List.to_integer(number)
    on_exit(fn -> for pid <- [os_pid | pgrep_children(python)], do: end_from_outside(pid) end)
    {os_pid, port}
  end

  defp start(program, options) do
    {os_pid, port} = open(program, options)
    # The fork server answers before the program is executed.
    assert eventually(fn -> executed?(os_pid) end)
    {os_pid, port}
  end

  defp open(program, options) do
    port = Port.open({:spawn_executable, program}, [:exit_status | options])
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    on_exit(fn -> end_from_outside(os_pid) end)
    {os_pid, port}
  end

  defp executed?(os_pid) do
    match?({:ok, <<_, _::binary>> = line} when line != "", File.read("/proc/#{os_pid}/cmdline")) and
      not String.contains?(File.read!("/proc/#{os_pid}/cmdline"), "erl_child_setup")
  end

  # Looks from outside, with neither this library's code nor its pidfds.

  defp end_from_outside(os_pid),
    do: System.cmd("kill", ["-KILL", "#{os_pid}"], stderr_to_stdout: true)

  defp running?(os_pid), do: state(os_pid) not in [nil, "Z", "X"]

  defp state(os_pid) do
    case System.cmd("ps", ["-o", "stat=", "-p", "#{os_pid}"]) do
      {"", _} -> nil
      {letters, 0} -> String.first(letters)
    end
  end

  defp pgrep_children(os_pid) do
    {numbers, _status} = System.cmd("pgrep", ["-P", "#{os_pid}"])
    numbers |> String.split() |> Enum.map(&String.to_integer/1)
  end

  defp pidfds do
    {listing, _status} =
      System.cmd("ls", ["-l", "/proc/#{System.pid()}/fd"], stderr_to_stdout: true)

    listing |> String.split("\n") |> Enum.count(&(&1 =~ "pidfd"))
  end

  defp stat(os_pid, field) do
    [_name, rest] = "/proc/#{os_pid}/stat" |> File.read!() |> String.split(") ", parts: 2)
    rest |> String.split() |> Enum.at(field - 3) |> String.to_integer()
  end

  defp kernel_thread?(os_pid) do
    match?({:ok, ""}, File.read("/proc/#{os_pid}/cmdline")) and stat(os_pid, 4) in [0, 2]
  end

  defp vm, do: String.to_integer(System.pid())

  defp eventually(condition), do: Leash.Test.Observer.eventually(5_000, condition)
end
