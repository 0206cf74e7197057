defmodule Leash.NativeTest do
  # Counts the descriptors of the whole VM, so nothing else may open any meanwhile.
  use ExUnit.Case, async: false

  alias Leash.Native
  alias Leash.Test.FarEnds

  @run "s59m65f"
  @fields %{
    node: "n@h",
    app: "my_app",
    version: "0.1.0",
    started_at: "2026-01-01T00:00:00Z"
  }

  # Plays the program, and obeys orders on its stdin.
  @program """
  stdin, stdout, stderr = [ends.pop(0) if stream in sys.argv[2:] else None for stream in ("stdin", "stdout", "stderr")]
  print("up", flush=True)
  for line in sys.stdin:
      order = line.split()
      if order[0] == "say": os.write(stdout, b"x" * int(order[1]))
      if order[0] == "eof": os.close(stdout)
      if order[0] == "deaf": os.close(stdin)
      if order[0] == "read":
          left = int(order[1])
          while left > 0: left -= len(os.read(stdin, left))
      if order[0] == "show": print(os.read(stdin, 80).decode(), flush=True)
      print("done", flush=True)
  """

  setup do
    assert System.find_executable("python3"), "these tests need python3, to play the program"
    :ok
  end

  test "data goes both ways" do
    {shim, ends} = connect([:stdin, :stdout, :stderr])
    assert Native.fd_read(ends.stdout, 100) == :again

    order(shim, "say 5")
    stdout = ends.stdout
    assert_receive {:leash_fd, ^stdout, :ready}
    assert Native.fd_read(ends.stdout, 3) == {:ok, "xxx"}
    assert Native.fd_read(ends.stdout, 100) == {:ok, "xx"}
    assert Native.fd_read(ends.stdout, 100) == :again

    assert Native.fd_write(ends.stdin, ["ab", [?c | "d"], []]) == {:ok, 4}
    order(shim, "read 4")

    order(shim, "eof")
    assert_receive {:leash_fd, ^stdout, :ready}
    assert Native.fd_read(ends.stdout, 100) == :eof
    assert is_reference(ends.stderr)
  end

  test "an end that was not asked for is nil" do
    assert {_shim, %{stdin: nil, stdout: fd, stderr: nil}} = connect([:stdout])
    assert is_reference(fd)
    assert {_shim, %{stdin: nil, stdout: nil, stderr: nil}} = connect([])
  end

  test "our ends are closed on exec and do not block" do
    before = descriptors()
    {_shim, ends} = connect([:stdin, :stdout, :stderr])
    fresh = for {number, "pipe:" <> _} <- descriptors() -- before, do: number
    # The pipes of the listing program itself are gone again.
    flags =
      for number <- fresh,
          {:ok, text} <- [File.read("/proc/self/fdinfo/#{number}")],
          do: flags(text)

    # O_CLOEXEC and O_NONBLOCK (open(2)); the VM's pipes to the port itself lack the former.
    assert Enum.count(flags, &(Bitwise.band(&1, 0o2004000) == 0o2004000)) >= 3
    # The test still refers to them. Otherwise garbage collection could have closed them.
    assert is_reference(ends.stdin) and is_reference(ends.stdout) and is_reference(ends.stderr)
  end

  test "a full pipe says so, and tells when there is room" do
    {shim, ends} = connect([:stdin])
    {written, again} = fill(ends.stdin, 0)
    assert again in 0..65_535
    refute_received {:leash_fd, _, _}

    order(shim, "read #{written}")
    stdin = ends.stdin
    assert_receive {:leash_fd, ^stdin, :writable}
    assert {:ok, 1} = Native.fd_write(ends.stdin, "y")
  end

  test "one write takes at most 64 KiB, of binaries and of lists" do
    for data <- [:binary.copy("a", 1_000_000), List.duplicate("abc", 100_000)] do
      {_shim, ends} = connect([:stdin])
      assert {_, written} = Native.fd_write(ends.stdin, data)
      assert written in 1..65_536
    end
  end

  test "iodata of any shape arrives in its order" do
    {shim, ends} = connect([:stdin])
    data = [[["ab" | "cd"], ?e], [], [[[]], "f", [?g | [[] | "h"]] | "i"] | "j"]
    assert Native.fd_write(ends.stdin, data) == {:ok, 10}
    Port.command(shim, "show\n")
    assert_receive {^shim, {:data, {:eol, "abcdefghij"}}}, 5_000
  end

  test "one write looks at 2,048 elements, but never takes nothing" do
    {_shim, ends} = connect([:stdin])
    assert Native.fd_write(ends.stdin, List.duplicate("abc", 3_000)) == {:ok, 3 * 2_048}
    assert Native.fd_write(ends.stdin, [List.duplicate([], 10_000), "abc"]) == {:ok, 3}
    nested = Enum.reduce(1..10_000, [], fn _, list -> [list, "a"] end)
    assert {:ok, written} = Native.fd_write(ends.stdin, nested)
    assert written in 2_000..2_048
  end

  test "a writer that waits for a worker that stops reading gets epipe" do
    {shim, ends} = connect([:stdin])
    fill(ends.stdin, 0)
    order(shim, "deaf")
    stdin = ends.stdin
    assert_receive {:leash_fd, ^stdin, :writable}
    assert Native.fd_write(ends.stdin, "z") == {:error, :epipe}
  end

  test "what is no iodata is an argument error and writes nothing" do
    {_shim, ends} = connect([:stdin])

    for bad <- [:atom, [256], ["ok", :atom], %{}, 1, [-1], [?a | ?b]] do
      assert_raise ArgumentError, fn -> Native.fd_write(ends.stdin, bad) end
    end

    assert_raise ArgumentError, fn -> Native.fd_read(make_ref(), 1) end
    assert_raise ArgumentError, fn -> Native.fd_close(self()) end
  end

  test "ten thousand descriptors opened and closed leave none behind" do
    before = count()

    for _ <- 1..10_000 do
      {:ok, socket, _name} = Native.warden_listen()
      :ok = Native.fd_close(socket)
      :ok = Native.fd_close(socket)
    end

    assert eventually(fn -> count() <= before end)
  end

  test "ten thousand that were waited for leave none behind" do
    before = count()

    for _ <- 1..10_000 do
      {:ok, socket, _name} = Native.warden_listen()
      :again = Native.warden_accept(socket, 1)
      :ok = Native.fd_close(socket)
    end

    assert eventually(fn -> count() <= before end)
    refute_received {:leash_fd, _, _}
  end

  test "garbage collection closes what never was waited for" do
    before = count()
    sockets = for _ <- 1..100, do: Native.warden_listen()
    assert count() >= before + 100
    assert length(sockets) == 100
    :erlang.garbage_collect()
    assert eventually(fn -> count() <= before end)
  end

  test "the death of the owner closes, also what others still refer to" do
    before = count()
    test = self()

    owner =
      spawn(fn ->
        sockets = for _ <- 1..50, {:ok, socket, _} <- [Native.warden_listen()], do: socket
        Enum.each(sockets, &Native.warden_accept(&1, 1))
        send(test, {:sockets, sockets})
        Process.sleep(:infinity)
      end)

    assert_receive {:sockets, sockets}
    assert count() == before + 50
    Process.exit(owner, :kill)
    assert eventually(fn -> count() == before end)
    assert Enum.map(sockets, &Native.warden_accept(&1, 1)) |> Enum.uniq() == [{:error, :closed}]
  end

  test "a descriptor that was given away lives on with its new owner" do
    test = self()
    {heir, heir_monitor} = spawn_monitor(fn -> receive do: (:end -> :ok) end)

    {giver, monitor} =
      spawn_monitor(fn ->
        {:ok, socket, _name} = Native.warden_listen()
        :ok = Native.fd_give(socket, heir)
        send(test, {:socket, socket})
      end)

    assert_receive {:socket, socket}
    assert_receive {:DOWN, ^monitor, :process, ^giver, :normal}
    assert Native.warden_accept(socket, 1) == :again

    send(heir, :end)
    assert_receive {:DOWN, ^heir_monitor, :process, ^heir, :normal}
    assert eventually(fn -> Native.warden_accept(socket, 1) == {:error, :closed} end)
  end

  test "giving to a dead process is refused and keeps the owner" do
    {dead, monitor} = spawn_monitor(fn -> :ok end)
    assert_receive {:DOWN, ^monitor, :process, ^dead, _}
    {:ok, socket, _name} = Native.warden_listen()
    assert Native.fd_give(socket, dead) == {:error, :noproc}
    assert Native.warden_accept(socket, 1) == :again
    Native.fd_close(socket)
  end

  test "closing from many processes at once closes once" do
    before = count()

    for _ <- 1..200 do
      {:ok, socket, _name} = Native.warden_listen()
      :again = Native.warden_accept(socket, 1)

      1..4
      |> Enum.map(fn _ -> Task.async(fn -> Native.fd_close(socket) end) end)
      |> Task.await_many()
    end

    assert eventually(fn -> count() <= before end)
  end

  test "a shim is opened by its exact command line only" do
    shim = named(["leash-shim", "--run-id=#{@run}", "--worker=3"])
    assert {:ok, fd} = Native.shim_open(os_pid(shim), @run, 3)
    assert Native.pidfd_ended?(fd) == false

    assert Native.shim_open(os_pid(shim), @run, 4) == {:error, :not_ours}
    assert Native.shim_open(os_pid(shim), "s59m65g", 3) == {:error, :not_ours}
    assert Native.shim_open(os_pid(shim), "", 3) == {:error, :not_ours}
    assert Native.shim_open(os_pid(shim), @run, 0) == {:error, :not_ours}
    for pid <- [0, 1, -1], do: assert(Native.shim_open(pid, @run, 3) == {:error, :not_ours})

    for decoy <- [
          ["grep", "--run-id=#{@run}", "--worker=3"],
          ["leash-shim", "x", "--run-id=#{@run}"]
        ] do
      assert Native.shim_open(os_pid(named(decoy)), @run, 3) == {:error, :not_ours}
    end
  end

  test "a pidfd tells the end of a process to every monitor, once" do
    shim = named(["leash-shim", "--run-id=#{@run}", "--worker=3"])
    {:ok, fd} = Native.shim_open(os_pid(shim), @run, 3)
    {:ok, second} = Native.fd_dup(fd)
    {:ok, revoked} = Native.fd_dup(fd)
    :ok = Native.pidfd_monitor(fd, {:ended, :first})
    :ok = Native.pidfd_monitor(second, {:ended, :second})
    :ok = Native.pidfd_monitor(revoked, {:ended, :revoked})
    :ok = Native.pidfd_demonitor(revoked)
    refute_received {:ended, _}

    assert Native.pidfd_signal(fd, 0) == {:error, :einval}
    assert Native.pidfd_signal(fd, 65) == {:error, :einval}
    assert Native.pidfd_signal(fd, 9) == :ok
    assert_receive {:ended, :first}
    assert_receive {:ended, :second}
    assert Native.pidfd_ended?(revoked)
    refute_received {:ended, _}

    :ok = Native.pidfd_monitor(revoked, {:ended, :late})
    assert_receive {:ended, :late}
    assert eventually(fn -> Native.pidfd_signal(fd, 9) == {:error, :esrch} end)
    :ok = Native.fd_close(fd)
    assert Native.pidfd_signal(fd, 9) == {:error, :closed}
    assert Native.pidfd_monitor(fd, :x) == {:error, :closed}
    assert Native.pidfd_ended?(fd) == {:error, :closed}
  end

  describe "a run's record" do
    setup do
      dir = Path.join(System.tmp_dir!(), "leash-native-#{System.unique_integer([:positive])}")
      on_exit(fn -> File.rm_rf!(dir) end)
      {:ok, dir: dir}
    end

    test "is locked while it is open, and goes when it is closed for good", %{dir: dir} do
      {:ok, lock, id} = Native.run_open(dir, @fields)
      path = Path.join(dir, id <> ".json")
      assert id =~ ~r/^[0-9a-z]{7}$/
      assert File.read!(path) =~ ~s("run_id":"#{id}")
      refute lockable?(path)

      # A living VM may have forgotten its own record, which still belongs to it.
      File.rm!(path)
      assert Native.run_ensure(lock) == :ok
      refute lockable?(path)

      assert Native.run_append_command(lock, 3, "--id", ["python3", <<255>>, id]) == :ok

      assert_raise ArgumentError, fn ->
        Native.run_append_command(lock, 3, "--id", ["python3" | "-u"])
      end

      assert File.read!(path) =~ ~s("command":["python3",[255],"#{id}"])

      assert Native.run_close(lock, false) == :ok
      assert lockable?(path)
      {:ok, second, other} = Native.run_open(dir, @fields)
      assert other != id
      assert Native.run_close(second, true) == :ok
      assert Native.run_close(second, true) == :ok
      assert File.ls!(dir) == [id <> ".json"]
    end

    test "the lock goes with the last reference to it", %{dir: dir} do
      test = self()

      {holder, monitor} =
        spawn_monitor(fn -> send(test, Native.run_open(dir, @fields)) |> elem(2) end)

      assert_receive {:DOWN, ^monitor, :process, ^holder, :normal}
      assert_received {:ok, lock, id}
      path = Path.join(dir, id <> ".json")
      :erlang.garbage_collect()
      refute lockable?(path)
      assert is_reference(lock)
      :erlang.garbage_collect()
      assert eventually(fn -> lockable?(path) end)
    end

    test "a directory that is not ours alone is refused with its path", %{dir: dir} do
      File.mkdir!(dir)
      File.chmod!(dir, 0o777)
      assert Native.run_open(dir, @fields) == {:error, {:loose_permissions, dir}}
      File.write!(dir <> "/file", "")
      assert Native.run_open(dir <> "/file", @fields) == {:error, {:enotdir, dir <> "/file"}}
      File.ln_s!(dir, dir <> "/link")
      assert Native.run_open(dir <> "/link", @fields) == {:error, {:symlink, dir <> "/link"}}
      assert Native.run_open("/proc/none/x", @fields) == {:error, {:enoent, "/proc/none/x"}}
    end
  end

  describe "a hunt" do
    test "ends one worker's processes, tells when to look again, and keeps all others" do
      target = tagged(3, marked?: true)
      # The last but one has a copy of the worker's environment, and is this VM's own child.
      decoys = [tagged(4), tagged(3, run: "s59m65g"), tagged(3, vm: 2), tagged(3), tagged(nil)]
      assert Enum.all?([target | decoys], &running?/1)

      number = os_pid(target)

      {:ok, hunt} = Native.hunt_new(%{kind: :workers, run_id: @run, workers: [3]})
      report = hunted(hunt)
      assert [%{pid: pid, worker: 3, action: :ended, ended_by: :sigkill} = match] = ended(report)
      assert pid == number
      assert match.verdict == :dead and match.carriers == [:mark, :env] and match.state == "S"
      assert report.survivors == [] and report.complete

      refute running?(target)
      assert Enum.all?(decoys, &running?/1)
      # A further step changes nothing: the descriptor is closed, and the report stays.
      assert Native.hunt_step(hunt) == {:done, report}
    end

    test "a run whose vm lives is refused" do
      target = tagged(3)
      {:ok, hunt} = Native.hunt_new(%{kind: :run, run_id: @run, deadline: 1_000})
      assert %{refused: {:run, :live}} = hunted(hunt)
      assert running?(target)
    end

    test "an improper list is no list" do
      assert_raise ArgumentError, fn -> Native.census(@run, [{3, nil} | {4, nil}], 0) end
    end

    test "a specification that is not understood names the key" do
      for {spec, key} <- [
            {%{}, :kind},
            {%{kind: :everything}, :kind},
            {%{kind: :workers, workers: [3]}, :run_id},
            {%{kind: :workers, run_id: "S59M65F", workers: [3]}, :run_id},
            {%{kind: :workers, run_id: @run, workers: [-1]}, :workers},
            {%{kind: :workers, run_id: @run}, :workers},
            {%{kind: :workers, run_id: @run, workers: [3 | 4]}, :workers},
            {%{kind: :sweep, mode: :maybe}, :mode},
            {%{kind: :sweep, scope: :app}, :app},
            {%{kind: :sweep, ladder: [{0, 5}]}, :ladder},
            {%{kind: :sweep, ladder: [{15, 5} | 0]}, :ladder},
            {%{kind: :sweep, deadline: -1}, :deadline},
            {%{kind: :process, pid: -1, start_ticks: 5}, :pid}
          ] do
        assert Native.hunt_new(spec) == {:error, {:invalid, key}}
      end
    end

    test "leaves no descriptor behind" do
      before = count()

      for _ <- 1..50 do
        {:ok, hunt} = Native.hunt_new(%{kind: :sweep, mode: :report})
        hunted(hunt)
      end

      :erlang.garbage_collect()
      assert eventually(fn -> count() <= before end)
    end

    # Looks for the end of the process from the outside, and steps as Leash.Cleanup does.
    defp hunted(hunt) do
      case Native.hunt_step(hunt) do
        {:done, report} ->
          report

        {:wait, milliseconds} ->
          receive do
            {:leash_hunt, ^hunt, :ready} -> :ok
          after
            milliseconds -> :ok
          end

          hunted(hunt)
      end
    end

    defp ended(report), do: Enum.filter(report.matches, &(&1.action == :ended))

    defp tagged(worker, options \\ []) do
      {pid, ticks, pid_ns, boot} = Native.owner_tag_base()
      run = Keyword.get(options, :run, @run)
      owner = Keyword.get(options, :vm, pid)
      tag = worker && ~c"#{run}.#{worker}.#{owner}.#{ticks}.#{pid_ns}.#{boot}"
      env = [{~c"LEASH_RUN", tag || false}]

      locks =
        if options[:marked?], do: ["--locks=" <> Leash.Test.Tag.locks(run, worker)], else: []

      prlimit = System.find_executable("prlimit")
      port = Port.open({:spawn_executable, prlimit}, env: env, args: locks ++ ["sleep", "60"])
      number = Integer.to_string(os_pid(port))
      on_exit(fn -> System.cmd("kill", ["-KILL", number], stderr_to_stdout: true) end)
      # The fork server answers before the program and its environment are there.
      assert eventually(fn -> match?("sleep" <> _, File.read!("/proc/#{number}/cmdline")) end)
      port
    end

    defp running?(port) do
      with {:os_pid, os_pid} <- Port.info(port, :os_pid),
           {letters, 0} <- System.cmd("ps", ["-o", "stat=", "-p", "#{os_pid}"]) do
        not String.starts_with?(letters, "Z")
      else
        _gone -> false
      end
    end
  end

  defp lockable?(path), do: match?({_, 0}, System.cmd("flock", ["-sn", path, "true"]))

  test "a panic is an exception of its caller and harms nothing else" do
    {:ok, socket, _name} = Native.warden_listen()
    error = assert_raise ErlangError, fn -> Native.native_panic() end
    assert error.original == :nif_panicked
    assert Native.warden_accept(socket, 1) == :again
    Native.fd_close(socket)
  end

  defp flags(fdinfo) do
    [_all, octal] = Regex.run(~r/flags:\s*([0-7]+)/, fdinfo)
    String.to_integer(octal, 8)
  end

  defp connect(streams) do
    names = Enum.map(streams, &Atom.to_string/1)
    {program, [ends]} = FarEnds.open("sys.argv[2:] = #{inspect(names)}\n" <> @program, [streams])
    assert_receive {^program, {:data, {:eol, "up"}}}, 5_000
    {program, ends}
  end

  defp order(shim, order) do
    Port.command(shim, order <> "\n")
    assert_receive {^shim, {:data, {:eol, "done"}}}, 5_000
  end

  # A program that overwrites its own command line and then waits for the end of its stdin.
  @named """
  import sys
  fields = open("/proc/self/stat").read().rpartition(")")[2].split()
  start, end = int(fields[45]), int(fields[46])
  line = b"".join(a.encode() + b"\\0" for a in sys.argv[1:])
  with open("/proc/self/mem", "r+b", 0) as memory:
      memory.seek(start)
      memory.write(line.ljust(end - start, b"\\0"))
  print("up", flush=True)
  sys.stdin.read()
  """

  defp named(args) do
    python = System.find_executable("python3")

    port =
      Port.open({:spawn_executable, python}, [:binary, line: 80, args: ["-c", @named | args]])

    assert_receive {^port, {:data, {:eol, "up"}}}, 5_000
    cmdline = File.read!("/proc/#{os_pid(port)}/cmdline")
    assert String.starts_with?(cmdline, Enum.map_join(args, &(&1 <> <<0>>)))
    port
  end

  defp fill(fd, total) do
    case Native.fd_write(fd, :binary.copy("a", 65_536)) do
      {:ok, n} -> fill(fd, total + n)
      {:again, n} -> {total + n, n}
    end
  end

  defp os_pid(port) do
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    os_pid
  end

  # Looks from outside: another program lists the descriptors that the VM holds open.
  defp descriptors(os_pid \\ System.pid()) do
    {listing, _status} = System.cmd("ls", ["-l", "/proc/#{os_pid}/fd"], stderr_to_stdout: true)

    for line <- String.split(listing, "\n"), [left, target] <- [String.split(line, " -> ")] do
      {left |> String.split() |> List.last(), target}
    end
  end

  defp count, do: length(descriptors())

  # Compares by inode, which stays a pipe's own while descriptors of earlier tests are being
  # closed.

  defp eventually(condition), do: Leash.Test.Observer.eventually(5_000, condition)
end
