defmodule Leash.ChannelTest do
  # The VM's side of a warden's control socket and of a shim's channel (native/PROTOCOL.md,
  # section 10).
  use Leash.Test.Case, async: true

  alias Leash.{Native, Run, Shim}

  @nothing {:none, :none, :none}

  # A warden of a run of its own, which ends with the test's process.
  setup do
    run = %{Run.current!() | id: Leash.RunId.generate()}
    {:ok, listener, name} = Native.warden_listen()
    args = ["--warden", "--control=" <> name, "--report=1", "--owner=" <> run.shim_owner]

    port =
      Port.open({:spawn_executable, Shim.path()}, [
        :binary,
        :exit_status,
        {:packet, 2},
        args: ["--run-id=#{run.id}" | args],
        env: [{~c"LEASH_RUN", false}]
      ])

    {:os_pid, warden} = Port.info(port, :os_pid)
    identity = Observer.identity(warden)
    on_exit(fn -> Observer.signal(identity, "KILL") end)
    control = accept(listener, warden)
    %{run: run, listener: listener, warden: warden, control: control, port: port}
  end

  defp accept(listener, pid) do
    with :again <- Native.warden_accept(listener, pid) do
      assert_receive {:leash_fd, ^listener, :ready}, 5_000
      accept(listener, pid)
    else
      {:ok, control} -> control
    end
  end

  defp start(%{run: run, control: control}, command, options \\ [], ends \\ @nothing) do
    head = ["--run-id=#{run.id}", "--worker=7", "--channel=3", "--owner=" <> run.shim_owner]
    streams = ["--stdin=null", "--stdout=null"]
    named = for option <- options, do: option |> String.split("=") |> hd()
    streams = Enum.reject(streams, &(hd(String.split(&1, "=")) in named))
    args = [Shim.path()] ++ head ++ streams ++ options ++ ["--"] ++ command
    Native.shim_start(control, args, {"PATH=/usr/bin:/bin\0A=b\0", 2}, ends)
  end

  # Returns the reports up to one of that kind, or to the end.
  defp reports(channel, kind \\ nil) do
    case Native.channel_read(channel) do
      :again ->
        assert_receive {:leash_fd, ^channel, :ready}, 10_000
        reports(channel, kind)

      :eof ->
        []

      # The warden's report may come later than the shim's.
      {:spawned, frame, pidfd} ->
        <<0, 5, 8, pid::32>> = frame
        send(self(), {:spawned, pid, pidfd})
        reports(channel, kind)

      {:ok, frames} ->
        found = for <<size::16, frame::binary-size(size) <- frames>>, do: Shim.report(frame)

        if Enum.any?(found, &(elem(&1, 0) == kind)),
          do: found,
          else: found ++ reports(channel, kind)
    end
  end

  test "a program is started by the warden, and all that is said of it comes by its channel",
       it do
    assert {:ok, channel, {nil, nil, nil}} = start(it, ["sh", "-c", "exit 7"])
    said = reports(channel)
    assert_received {:spawned, shim, pidfd}
    assert [%{shim: ^shim, mark: :set}] = for({:ready, ready} <- said, do: ready)
    assert {:gone, %{status: 7, cause: :exited}} = List.last(said)
    assert_eventually(fn -> Native.pidfd_ended?(pidfd) end)
  end

  test "pipes are the VM's on one end and the program's on the other", it do
    options = ["--stdin=fd:4", "--stdout=fd:5", "--stderr=fd:6"]
    ends = {:pipe, :pipe, :pipe}

    {:ok, channel, {stdin, stdout, stderr}} =
      start(it, ["sh", "-c", "echo $A >&2; cat"], options, ends)

    assert {:ok, 5} = Native.fd_write(stdin, "hello")
    Native.fd_close(stdin)
    assert {read(stdout), read(stderr)} == {"hello", "b\n"}
    assert {:gone, %{status: 0}} = List.last(reports(channel))
  end

  defp read(fd) do
    case Native.fd_read(fd, 100) do
      {:ok, data} ->
        data <> read(fd)

      :eof ->
        ""

      :again ->
        assert_receive {:leash_fd, ^fd, :ready}, 10_000
        read(fd)
    end
  end

  test "a shim is asked by its channel for the ladder, and for SIGKILL at once", it do
    for {what, cause} <- [ladder: :stop, kill: :kill] do
      {:ok, channel, _ends} = start(it, ["sleep", "600"], ["--stop=TERM:60000"])
      [_ | _] = reports(channel, :started)
      assert Native.channel_ask(channel, what) == :ok
      assert {:gone, %{cause: ^cause}} = List.last(reports(channel))
      assert Native.channel_ask(channel, what) == {:error, :epipe}
    end
  end

  # A socket reports once that its other end has not read everything. This comes before the data
  # of the other end.
  test "what a shim has reported comes, though it left a request unread", it do
    {:ok, channel, _ends} = start(it, ["sleep", "617"])
    assert_eventually(fn -> match?([_], of_sleep("617")) end)
    [worker] = of_sleep("617")
    shim = Observer.identity(Observer.parent(elem(worker, 0)))
    Observer.signal(shim, "STOP")
    assert Native.channel_ask(channel, :ladder) == :ok
    Observer.signal(shim, "KILL")
    assert_eventually(fn -> not Observer.alive?(shim) end)
    {pid, _ticks} = worker
    assert {:started, pid} in reports(channel)
    assert_eventually(fn -> not Observer.alive?(worker) end)
  end

  # The shim has the number among its arguments as well.
  defp of_sleep(number) do
    for {pid, _ticks} = process <- Observer.with_argument(number),
        {:ok, "sleep\0" <> _rest} <- [File.read("/proc/#{pid}/cmdline")],
        do: process
  end

  test "the end of the process that holds the channel ends the tree", it do
    test = self()

    {holder, monitor} =
      spawn_monitor(fn ->
        {:ok, channel, _ends} = start(it, ["sleep", "600"])
        {:started, pid} = channel |> reports(:started) |> List.last()
        send(test, {:runs, pid})
        receive do: (:never -> :ok)
      end)

    assert_receive {:runs, pid}, 10_000
    worker = Observer.identity(pid)
    assert Observer.alive?(worker)
    Process.exit(holder, :kill)
    assert_receive {:DOWN, ^monitor, :process, _pid, :killed}
    assert_eventually(fn -> not Observer.alive?(worker) end)
  end

  test "word of the warden comes once what a killed shim left is gone, whatever it has shed",
       it do
    decoy = Decoys.same_tag(it.run.id)
    line = "env -i prlimit --locks=1:1 setsid -f sleep 615; exec sleep 616"
    {:ok, channel, _ends} = start(it, ["sh", "-c", line])
    [%{shim: shim}] = for {:ready, ready} <- reports(channel, :started), do: ready
    shim = Observer.identity(shim)
    assert_eventually(fn -> length(sleeps()) == 2 end)
    left = sleeps()
    Observer.signal(shim, "KILL")
    assert_eventually(fn -> not Observer.alive?(shim) end)
    {:ok, word} = Native.warden_word(it.control)
    assert next(word) == {:ok, "W"}
    assert Enum.filter(left, &Observer.alive?/1) == []
    assert Decoy.harm(decoy) == nil
    Decoy.stop(decoy)
  end

  defp sleeps, do: of_sleep("615") ++ of_sleep("616")

  defp next(fd) do
    with :again <- Native.channel_read(fd) do
      assert_receive {:leash_fd, ^fd, :ready}, 10_000
      next(fd)
    end
  end

  test "what cannot be started is told by the channel, or refused before", it do
    arguments = ["/nonexistent/shim", "--run-id=#{it.run.id}"]
    {:ok, channel, _ends} = Native.shim_start(it.control, arguments, {"", 0}, @nothing)
    assert [{:start_failed, :shim, 2}] = reports(channel)
    assert Native.shim_start(it.control, ["a\0b"], {"", 0}, @nothing) == {:error, :einval}

    assert_raise ArgumentError, fn ->
      Native.shim_start(it.control, [], {"", 0}, {:none, :none, :x})
    end

    Native.fd_close(it.control)
    assert start(it, ["true"]) == {:error, :closed}
    assert Native.warden_word(it.control) == {:error, :closed}
  end

  test "every caller sees that a warden is gone", it do
    Observer.signal(Observer.identity(it.warden), "KILL")
    assert_receive {port, {:exit_status, _status}} when port == it.port, 5_000
    assert start(it, ["true"]) == {:error, :epipe}
  end

  test "a process that is not the warden is not taken for it", it do
    {:ok, listener, name} = Native.warden_listen()
    {:ok, stranger} = :socket.open(:local, :seqpacket)
    :ok = :socket.connect(stranger, %{family: :local, path: "\0" <> name})
    assert Native.warden_accept(listener, it.warden) == :again
    assert :socket.recv(stranger, 0, [], 5_000) in [{:error, :closed}, {:ok, ""}]
    :socket.close(stranger)
  end
end
