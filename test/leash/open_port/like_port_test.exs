defmodule Leash.OpenPort.LikePortTest do
  @moduledoc "Every option beside a bare port: the owner sees the same."

  use ExUnit.Case, async: true

  setup do
    Process.flag(:trap_exit, true)
    :ok
  end

  # Returns the messages of a bare port and of a leashed one for the same input, without the port
  # itself.
  defp both(command, args, options, act \\ fn _port -> nil end) do
    bare = fn ->
      Port.open({:spawn_executable, System.find_executable(command)}, [{:args, args} | options])
    end

    leashed = fn -> Leash.open_port(command, args, options) end
    [bare, leashed] = for open <- [bare, leashed], do: seen(open.(), act)
    assert leashed == bare
    leashed
  end

  defp seen(port, act), do: {act.(port), port |> messages() |> joined()}

  # Collects until the port is gone. Every program here brings that about.
  defp messages(port) do
    receive do
      {^port, message} -> [message | messages(port)]
      {:EXIT, ^port, reason} -> [{:EXIT, reason}]
    after
      5_000 -> flunk("the port does not end")
    end
  end

  # A stream arrives in parts of any size.
  defp joined([{:data, a}, {:data, b} | rest]) when is_binary(a) and is_binary(b),
    do: joined([{:data, a <> b} | rest])

  defp joined([{:data, [x | _] = a}, {:data, [y | _] = b} | rest])
       when is_integer(x) and is_integer(y),
       do: joined([{:data, a ++ b} | rest])

  defp joined([message | rest]), do: [message | joined(rest)]
  defp joined([]), do: []

  defp command(data), do: fn port -> Port.command(port, data) end
  defp sh(line, options, act \\ fn _port -> nil end), do: both("sh", ["-c", line], options, act)

  test "data are lists, or binaries with :binary" do
    assert {_, [{:data, ~c"out\n"}, {:EXIT, :normal}]} = sh("echo out", [])
    assert {_, [{:data, "out\n"}, {:EXIT, :normal}]} = sh("echo out", [:binary])
    assert {_, [{:data, "out\n"}, {:EXIT, :normal}]} = sh("echo out", [:stream, :binary, :hide])
  end

  test "exit_status is the program's, 128 and the signal's number where one ended it" do
    for {line, status} <- [
          {"exit 0", 0},
          {"exit 7", 7},
          {"kill -9 $$", 137},
          {"kill -15 $$", 143}
        ] do
      assert {_, [{:exit_status, ^status}, {:EXIT, :normal}]} = sh(line, [:exit_status])
    end
  end

  test "packet 1, 2 and 4 frame both directions" do
    for n <- [1, 2, 4] do
      options = [:binary, :exit_status, packet: n]
      # Cat returns one message as one frame. Then it has read all that it wants.
      act = fn port ->
        Port.command(port, ["hel", ?l | "o"])
        receive(do: ({^port, {:data, data}} -> data))
      end

      assert {"hello", [{:exit_status, 0}, _]} = both("head", ["-c", "#{5 + n}"], options, act)
    end
  end

  test "of :stream and :packet the last one counts" do
    assert {_, [{:data, "\0\x01x"} | _]} =
             sh("printf '\\000\\001x'", [:binary, {:packet, 2}, :stream])

    assert {_, [{:data, "x"} | _]} = sh("printf '\\000\\001x'", [:stream, :binary, {:packet, 2}])
  end

  test "lines come whole, or in parts where they are longer" do
    line = "printf 'one\\nabcdefghi\\n'"

    assert {_,
            [
              {:data, {:eol, "one"}},
              {:data, {:noeol, "abcd"}},
              {:data, {:noeol, "efgh"}},
              {:data, {:eol, "i"}},
              {:exit_status, 0},
              {:EXIT, :normal}
            ]} = sh(line, [:binary, :exit_status, line: 4])

    assert {_, [{:data, {:noeol, "end"}}, _]} = sh("printf end", [:binary, line: 4])
  end

  test "eof is said, and the port stays until it is closed" do
    act = fn port ->
      assert_receive {^port, {:data, "x"}}, 5_000
      assert_receive {^port, :eof}, 5_000
      connected = Port.info(port, :connected)
      Port.close(port)
      connected == {:connected, self()}
    end

    assert {true, [{:EXIT, :normal}]} = sh("printf x", [:binary, :eof], act)
  end

  test "the end of stdout is seen although the program lives on" do
    act = fn port ->
      assert_receive {^port, :eof}, 5_000
      {:os_pid, pid} = Port.info(port, :os_pid)
      lives? = Leash.Test.Observer.state(pid) not in [nil, "Z"]
      Port.close(port)
      lives?
    end

    assert {true, [{:EXIT, :normal}]} = sh("exec >&-; read line", [:binary, :eof], act)
  end

  test "cd, env and arg0 reach the program" do
    assert {_, [{:data, "/usr\n"} | _]} = sh("pwd", [:binary, :exit_status, cd: "/usr"])
    assert {_, [{:data, "/usr\n"} | _]} = sh("pwd", [:binary, :exit_status, cd: ~c"/usr"])

    env = [{~c"LEASH_TEST_A", ~c"ä b"}, {~c"HOME", false}]
    line = "echo \"$LEASH_TEST_A\" ${HOME-none}"
    assert {_, [{:data, "ä b none\n"} | _]} = sh(line, [:binary, :exit_status, env: env])

    assert {_, [{:data, "me\n"} | _]} =
             both("sh", ["-c", "echo $0"], [:binary, :exit_status, arg0: "me"])
  end

  test "strings serve as variables too, where Port.open/2 takes charlists alone" do
    port =
      Leash.open_port("sh", ["-c", "echo $LEASH_TEST_A${HOME-none}"], [
        :binary,
        :exit_status,
        env: %{"LEASH_TEST_A" => "x", "HOME" => nil}
      ])

    assert_receive {^port, {:data, "xnone\n"}}, 5_000
  end

  test "arguments arrive as they are" do
    args = ["", "a b", "ä", "--run-id=zzzzzzz", "--", "\"$x`'\n", ~c"list", ~c""]

    assert {_, [{:data, data} | _]} =
             both("sh", ["-c", "printf '<%s>' \"$@\"", "sh" | args], [:binary, :exit_status])

    assert data == "<><a b><ä><--run-id=zzzzzzz><--><\"$x`'\n><list><>"
  end

  test "stderr goes where stdout goes" do
    assert {_, [{:data, "a\nb\nc\n"}, {:exit_status, 0}, _]} =
             sh("echo a; echo b >&2; echo c", [:binary, :exit_status, :stderr_to_stdout])
  end

  test "the scheduling options and limits are the port's" do
    options = [
      :binary,
      :exit_status,
      :use_stdio,
      :in,
      :out,
      parallelism: true,
      busy_limits_port: {1_000, 2_000},
      busy_limits_msgq: :disabled
    ]

    act = fn port ->
      info = {Port.info(port, :parallelism), Port.info(port, :connected) == {:connected, self()}}
      Port.command(port, "go\n")
      info
    end

    assert {{{:parallelism, true}, true}, [{:data, "go\n"}, {:exit_status, 0}, _]} =
             both("head", ["-n", "1"], options, act)
  end

  test "a port that is :in only reads, and its program has the VM's stdin" do
    line = "echo x; readlink /proc/self/fd/0"

    assert {_, [{:data, "x\n" <> _}, {:exit_status, 0}, _]} =
             sh(line, [:binary, :exit_status, :in])
  end

  @tag :tmp_dir
  test "a port that is :out only writes, and its program has the stdout of the VM", %{
    tmp_dir: dir
  } do
    # Two files, since the ports are open at the same time.
    for open <- [
          &Port.open({:spawn_executable, "/bin/sh"}, [{:args, &1}, :out]),
          &Leash.open_port("/bin/sh", &1, [:out])
        ] do
      path = Path.join(dir, "#{System.unique_integer([:positive])}")

      line =
        "exec 3>&1; head -n 1 > #{path}.part; readlink /proc/self/fd/3 >> #{path}.part; mv #{path}.part #{path}"

      port = open.(["-c", line])
      true = Port.command(port, "data\n")
      assert eventually(fn -> File.exists?(path) end)
      true = Port.close(port)
      assert File.read!(path) == "data\n" <> File.read_link!("/proc/self/fd/1") <> "\n"
    end
  end

  test "the port can be handed over, and goes with its new owner" do
    act = fn port ->
      test = self()

      {heir, monitor} =
        spawn_monitor(fn ->
          receive do
            {^port, {:data, data}} -> send(test, {:heir_got, data})
          end

          receive do
            :end -> :ok
          end
        end)

      true = Port.connect(port, heir)
      # The new owner sends, because only the owner may send this way.
      send(port, {heir, {:command, "x"}})
      assert_receive {:heir_got, "x"}, 5_000
      info = Port.info(port, :connected) == {:connected, heir}
      send(heir, :end)
      assert_receive {:DOWN, ^monitor, :process, _, :normal}
      info
    end

    assert {true, [{:EXIT, :normal}]} = both("cat", [], [:binary], act)
  end

  test "300 kB go through in both directions" do
    data = :binary.copy("0123456789", 30_000)
    act = command(data)

    assert {true, [{:data, ^data}, {:exit_status, 0}, _]} =
             both("head", ["-c", "300000"], [:binary, :exit_status], act)
  end

  test "what is no program is the same error" do
    dir = Path.join(System.tmp_dir!(), "leash-open-port-#{System.unique_integer([:positive])}")
    File.write!(dir, "no program")
    on_exit(fn -> File.rm(dir) end)

    for path <- ["/nonexistent/leash", dir] do
      assert raised(fn -> Leash.open_port(path) end) ==
               raised(fn -> Port.open({:spawn_executable, path}, []) end)
    end

    assert %ErlangError{original: :enoent} =
             raised(fn -> Leash.open_port("leash-no-such-program") end)

    assert %ErlangError{original: :eacces} = raised(fn -> Leash.open_port("/tmp") end)
  end

  defp raised(fun) do
    fun.()
    flunk("nothing was raised")
  rescue
    error in ErlangError -> error
  end

  defp eventually(condition), do: Leash.Test.Observer.eventually(5_000, condition)
end
