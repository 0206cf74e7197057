defmodule Leash.IdentityTest do
  # The user and the privileges of a program, compared with those that setpriv(1) gives.
  use Leash.Test.Case, async: false

  @rights ~w(Uid Gid Groups NoNewPrivs CapInh CapPrm CapEff CapBnd CapAmb Umask)
  @status "/proc/self/status"

  setup do: nothing_is_listed_after()

  defp rights(text) do
    for name <- @rights, into: %{} do
      [_line, value] = Regex.run(~r/^#{name}:(.*)$/m, text)
      {name, String.split(value)}
    end
  end

  defp of_setpriv(line) do
    {text, 0} = System.cmd("sh", ["-c", "#{line} cat #{@status}"], stderr_to_stdout: true)
    rights(text)
  end

  defp of_port(port, text) do
    receive do
      {^port, {:data, more}} -> of_port(port, text <> more)
      {^port, {:exit_status, status}} -> {text, status}
    after
      10_000 -> flunk("the port's program did not end")
    end
  end

  # Returns the output of a program of each kind, from Elixir and from Erlang.
  defp outputs(command, args, options) do
    {text, 0} = Leash.cmd(command, args, options)
    {erlang, 0} = :leash.cmd(command, args, Map.new(options))
    {port, 0} = of_port(Leash.open_port(command, args, [:binary, :exit_status | options]), "")
    {other, 0} = of_port(:leash.open_port(command, args, [:binary, :exit_status | options]), "")
    file = Path.join(System.tmp_dir!(), Leash.Test.Name.unique("leash-test"))
    on_exit(fn -> File.rm(file) end)

    {:ok, worker} =
      Worker.start_link([command: command, args: args, on_output: self()] ++ options)

    assert_receive {:EXIT, ^worker, :normal}, 10_000
    stream = Enum.join(Leash.stream!(command, args, options))
    [text, erlang, port, other, stream, of_worker(worker, "")]
  end

  defp of_worker(worker, text) do
    receive do
      {:leash_output, ^worker, :stdout, more} -> of_worker(worker, text <> more)
    after
      0 -> text
    end
  end

  @nobody "setpriv --reuid=nobody --regid=nogroup"
  @keep "--inh-caps=-all,+net_bind_service,+kill --ambient-caps=-all,+net_bind_service,+kill"

  for {what, options, line} <- [
        {"a user", [user: "nobody"], @nobody <> " --init-groups"},
        {"a user by its number", [user: 65_534], @nobody <> " --init-groups"},
        {"a user with another group", [user: "daemon", gid: "nogroup"],
         "setpriv --reuid=daemon --regid=nogroup --init-groups"},
        {"a user with groups", [user: "daemon", groups: ["bin", 64_320]],
         "setpriv --reuid=daemon --regid=daemon --groups=64320,bin"},
        {"a user without groups", [user: "daemon", groups: []],
         "setpriv --reuid=daemon --regid=daemon --clear-groups"},
        {"a number without an account", [user: 64_318, gid: 64_319],
         "setpriv --reuid=64318 --regid=64319 --clear-groups"},
        {"a group alone", [gid: "daemon"], "setpriv --regid=daemon --keep-groups"},
        {"groups alone", [groups: ["daemon", 7]], "setpriv --groups=7,daemon"},
        {"no new privileges", [no_new_privs: true], "setpriv --no-new-privs"},
        {"a umask", [umask: 0o137], "umask 137;"},
        {"capabilities to keep",
         [user: "nobody", capabilities: [keep: [:kill, :net_bind_service]], umask: 0],
         "umask 0; #{@nobody} --init-groups #{@keep}"},
        {"no capability to keep", [user: "nobody", no_new_privs: true, capabilities: [keep: []]],
         "#{@nobody} --init-groups --no-new-privs --inh-caps=-all --ambient-caps=-all"}
      ] do
    @tag needs: :setpriv
    test "a program with #{what} has the rights that setpriv gives" do
      expected = of_setpriv(unquote(line))
      outputs = outputs("cat", [@status], unquote(Macro.escape(options)))
      assert length(outputs) == 6
      assert Enum.uniq(Enum.map(outputs, &rights/1)) == [expected]
    end
  end

  @tag needs: :mounts
  test "a user has the groups that list it, as setpriv --init-groups sets them" do
    group = Path.join(tmp_dir!(), "group")

    others =
      for n <- 1..5, do: "g#{n}:x:#{64_400 + n}:bin,#{if n == 3, do: "nobody", else: "daemon"}\n"

    File.write!(group, [File.read!("/etc/group"), "g0:x:64400:daemonic\n" | others])
    mount = "mount --bind #{group} /etc/group && exec \"$@\""
    vm = start_vm([], prefix: Python.quote_all(["unshare", "--mount", "sh", "-c", mount, "sh"]))

    code = """
    for {options, args} <- [
          {[user: "daemon"], ~w(--reuid=daemon --regid=daemon --init-groups)},
          {[user: 1, gid: "g2"], ~w(--reuid=daemon --regid=g2 --init-groups)},
          {[user: "nobody"], ~w(--reuid=nobody --regid=nogroup --init-groups)}
        ] do
      groups = fn text -> Regex.run(~r/^Groups:.*$/m, text) end
      {ours, 0} = Leash.cmd("cat", ["#{@status}"], options)
      {theirs, 0} = System.cmd("setpriv", args ++ ["cat", "#{@status}"])
      {groups.(ours), groups.(theirs)}
    end
    """

    assert [{daemon, daemon}, {other, other}, {nobody, nobody}] = VM.eval(vm, code)
    assert daemon == ["Groups:\t1 64401 64402 64404 64405 "]
    assert other == daemon
    assert nobody == ["Groups:\t64403 65534 "]
  end

  @tag needs: :root
  test "HOME, USER and LOGNAME are the user's unless :env has them" do
    line = ~S(echo "${HOME-unset}.${USER-unset}.${LOGNAME-unset}")
    seen = &Enum.uniq(outputs("sh", ["-c", line], &1))
    assert seen.(user: "nobody") == ["/nonexistent.nobody.nobody\n"]
    assert seen.(user: 65_534, env: :clear) == ["/nonexistent.nobody.nobody\n"]
    assert seen.(user: "nobody", env: [{"HOME", "/tmp"}]) == ["/tmp.nobody.nobody\n"]
    assert seen.(user: "nobody", env: %{"USER" => nil}) == ["/nonexistent.unset.nobody\n"]
    assert seen.(user: 64_318, gid: 64_319) == ["unset.unset.unset\n"]
    home = System.get_env("HOME", "unset")
    assert [text] = seen.(gid: "daemon", umask: 0)
    assert String.starts_with?(text, home <> ".")
  end

  @tag needs: :root
  test "files and the directory are opened with the program's rights" do
    dir = tmp_dir!()
    out = Path.join(dir, "out")
    options = [command: "true", stdout: {:file, out}]
    assert {:error, {:stdout, :eacces}} = Worker.start_link([user: "nobody"] ++ options)
    assert {:error, {:cd, :eacces}} = Worker.start_link(command: "true", user: "nobody", cd: dir)
    :ok = File.chmod(dir, 0o777)
    assert {:ok, worker} = Worker.start_link([user: "nobody", umask: 0o37] ++ options)
    assert_eventually(fn -> not Process.alive?(worker) end)
    assert %{uid: 65_534, gid: 65_534, mode: 0o100640} = File.stat!(out)
  end

  describe "a user that only another database has" do
    setup do
      dir = tmp_dir!()
      path = System.get_env("PATH")
      System.put_env("PATH", dir <> ":" <> path)
      on_exit(fn -> System.put_env("PATH", path) end)
      # Stands in for getent(1) with a directory service.
      fake = fn script ->
        File.write!(Path.join(dir, "getent"), "#!/bin/sh\n" <> script)
        File.chmod!(Path.join(dir, "getent"), 0o755)
      end

      %{fake: fake}
    end

    @tag needs: :root
    test "is found with its groups, home and group names", %{fake: fake} do
      fake.("""
      case "$1 $2" in
        "passwd ada"|"passwd 64500") echo "ada:x:64500:64501:Ada,,:/srv/ada:/bin/sh";;
        "initgroups ada") echo "ada                   64502 64503";;
        "group crew") echo "crew:x:64504:";;
        *) exit 2;;
      esac
      """)

      line = "id -u; id -g; id -G | tr ' ' '\\n' | sort | tr '\\n' ' '; echo $HOME $USER"
      run = &elem(Leash.cmd("sh", ["-c", line], &1), 0)
      assert run.(user: "ada") == "64500\n64501\n64501 64502 64503 /srv/ada ada\n"
      assert run.(user: 64_500) == "64500\n64501\n64501 64502 64503 /srv/ada ada\n"

      assert run.(user: "ada", gid: "crew") ==
               "64500\n64504\n64501 64502 64503 64504 /srv/ada ada\n"

      assert_raise Leash.OptionsError, ~r/a user that this machine knows/, fn ->
        run.(user: "eve")
      end
    end

    test "is given up if no answer comes, and nothing is left of the question", %{fake: fake} do
      fake.("sleep 7213 & exec sleep 7214")
      began = System.monotonic_time(:millisecond)
      error = catch_error(Leash.cmd("true", [], user: "ada"))
      assert %Leash.OptionsError{key: :user, expected: expected} = error
      assert expected =~ "a user that getent(1) finds within 2000 ms"
      assert (System.monotonic_time(:millisecond) - began) in 2_000..8_000

      assert_eventually(fn ->
        Observer.with_argument("7213") ++ Observer.with_argument("7214") == []
      end)
    end

    @tag needs: :root
    test "is not asked for if a file has the name, or a number has a group", %{fake: fake} do
      fake.("exec sleep 7215")
      began = System.monotonic_time(:millisecond)
      assert {_text, 0} = Leash.cmd("true", [], user: "daemon", groups: ["bin"])
      assert System.monotonic_time(:millisecond) - began < 1_900
    end
  end

  describe "a VM without the rights" do
    defp starts(vm, options) do
      code = """
      Process.flag(:trap_exit, true)
      options = #{inspect(options)}
      port = Leash.open_port("true", [], [:binary, :exit_status | options])
      status = receive do {^port, {:exit_status, status}} -> status end
      {Leash.Worker.start_link([command: "sleep", args: ["7216"]] ++ options),
       catch_error(Leash.cmd("sleep", ["7216"], options)), status,
       Leash.capabilities() |> Map.take([:set_user, :own_capabilities])}
      """

      result = VM.eval(vm, "import ExUnit.Assertions; " <> code)
      # The shim's last report comes before its exit.
      assert_eventually(fn -> Observer.with_argument("7216") == [] end)
      result
    end

    @tag needs: :setpriv
    test "cannot change users, and says why" do
      vm = start_vm([], prefix: "setpriv --bounding-set=-all --inh-caps=-all")

      for options <- [[user: "nobody"], [gid: "daemon"], [groups: ["daemon"]]] do
        assert {{:error, {:ids, :eperm}}, error, 125, can} = starts(vm, options)
        assert Exception.message(error) =~ "no CAP_SETUID or CAP_SETGID (eperm)"
        assert can == %{set_user: false, own_capabilities: []}
      end

      assert VM.log(vm) =~ "leash-shim: #{System.find_executable("true")}: not permitted (uid"
    end

    @tag needs: :setpriv
    test "does not start what it could not end" do
      vm = start_vm([], prefix: "setpriv --bounding-set=-kill")
      assert {{:error, {:kill, :eperm}}, error, 125, can} = starts(vm, user: "nobody")
      assert Exception.message(error) =~ "could not end a program of this user again"
      refute can.set_user
      assert :setuid in can.own_capabilities and :kill not in can.own_capabilities
      # Signals to its own user need no right.
      assert {{:ok, worker}, _error, 0, _can} =
               VM.eval(vm, """
               port = Leash.open_port("true", [], [:exit_status, user: "root"])
               status = receive do {^port, {:exit_status, status}} -> status end
               {Leash.Worker.start_link(command: "sleep", args: ["60"], user: "root"), nil, status, nil}
               """)

      assert is_pid(worker)
    end

    @tag needs: :setpriv
    test "keeps no capability that it does not have, and none for root" do
      vm = start_vm([], prefix: "setpriv --bounding-set=-net_raw")
      options = [user: "nobody", capabilities: [keep: [:net_raw]]]
      assert {{:error, {:capabilities, :eperm}}, error, 125, _can} = starts(vm, options)
      assert Exception.message(error) =~ "does not have a capability that the program should keep"

      assert {{:error, {:capabilities, :einval}}, error, 125, _can} =
               starts(vm, capabilities: [keep: []])

      assert Exception.message(error) =~ "root gets all capabilities of its bounding set at exec"
    end
  end

  @tag needs: :root
  test "a worker of another user is listed like any other" do
    tree = start_tree({:sh, "echo ready $$; exec sleep 60"}, user: "root", name: :ids_listed)
    {:ok, nobody} = Worker.start_link(command: "sleep", args: ["60"], user: "nobody")
    pid = Worker.os_pid(nobody)
    assert %{os_pid: ^pid} = Enum.find(Leash.list(), &(&1.pid == nobody))
    assert %{mark: :set} = Worker.info(nobody)

    for arguments <- [["ps"], ["tree"]] do
      assert {text, 0} = Leash.Test.Cli.run(Decoys.run_dir(), arguments)
      assert text =~ ~r/\b#{pid}\b.*sleep/
    end

    assert {:ok, %Exit{signal: :sigterm}} = Worker.stop(nobody)
    assert {:ok, _exit} = Worker.stop(tree.worker)
  end

  test "mistakes are named before anything starts" do
    for {bad, path, text} <- [
          {[user: "no such"], [], "a user that this machine knows, got: \"no such\""},
          {[user: ""], [], "a name, or a number as an integer, got: \"\""},
          {[user: "12"], [], "a name, or a number as an integer, did you mean 12?, got: \"12\""},
          {[user: "-x"], [], "got: \"-x\""},
          {[user: "a:b"], [], "got: \"a:b\""},
          {[user: "a\nb"], [], "a name, or a number as an integer"},
          {[user: -1], [], "got: -1"},
          {[user: 0xFFFFFFFF], [], "got: 4294967295"},
          {[user: :nobody], [], "an integer, did you mean \"nobody\"?, got: :nobody"},
          {[gid: "no such"], [], "a group that this machine knows, got: \"no such\""},
          {[gid: 1.0], [], "got: 1.0"},
          {[groups: "daemon"], [], "a list of at most 32 names, or numbers as integers"},
          {[groups: Enum.to_list(1..33)], [], "a list of at most 32 names"},
          {[groups: [1 | 2]], [], "a list of at most 32 names"},
          {[groups: ["daemon", "no such"]], [],
           "a group that this machine knows; \"no such\" is none, got: [\"daemon\", \"no such\"]"},
          {[no_new_privs: 1], [], "true or false, got: 1"},
          {[umask: 0o1000], [], "a mask from 0 to 0o777, got: 512"},
          {[umask: "022"], [], "a mask from 0 to 0o777"},
          {[capabilities: [:kill]], [], "a keyword list of :keep"},
          {[capabilities: []], [:capabilities, :keep], "(it is required)"},
          {[capabilities: [keep: :kill]], [:capabilities, :keep], "without cap_, got: :kill"},
          {[capabilities: [keep: [:kill, :CAP_NET_RAW]]], [:capabilities, :keep],
           ":CAP_NET_RAW is none, did you mean :net_raw?"},
          {[capabilities: [keep: [nil]]], [:capabilities, :keep], "nil is none, got: [nil]"},
          {[capabilities: [drop: []]], [:capabilities, nil], "one of [:keep], got: :drop"},
          {[capabilities: [keep: []], user: "root"], [],
           "nothing beside user: root, which gets all capabilities at exec"}
        ] do
      [{key, _value} | _more] = bad

      for start <- [
            fn -> Worker.start_link([command: "true"] ++ bad) end,
            fn -> Leash.cmd("true", [], bad) end,
            fn -> Leash.stream!("true", [], bad) end,
            fn -> Leash.open_port("true", [], bad) end,
            fn -> :leash.start_link([command: "true"] ++ bad) end
          ] do
        assert %Leash.OptionsError{key: ^key, path: ^path} = error = catch_error(start.())
        assert Exception.message(error) =~ text
      end
    end

    assert %Leash.OptionsError{key: :gid} =
             error = catch_error(Leash.cmd("true", [], user: 64_318))

    assert Exception.message(error) =~ "a group beside user: 64318, a number that no account has"
  end

  @tag needs: :root
  test "names may be charlists in Erlang, and capabilities a map" do
    options = %{
      user: ~c"nobody",
      gid: ~c"daemon",
      groups: [~c"bin", 7],
      capabilities: %{keep: [:kill]}
    }

    {text, 0} = :leash.cmd(~c"cat", [~c"/proc/self/status"], options)
    expected = [user: "nobody", gid: "daemon", groups: ["bin", 7], capabilities: [keep: [:kill]]]
    {same, 0} = Leash.cmd("cat", ["/proc/self/status"], expected)
    assert rights(text) == rights(same)
    assert rights(text)["Gid"] == ["1", "1", "1", "1"]
    list = options |> Map.delete(:capabilities) |> Map.to_list()
    port = :leash.open_port(~c"cat", [~c"/proc/self/status"], [:binary, :exit_status | list])
    assert {text, 0} = of_port(port, "")
    assert rights(text)["Groups"] == ["2", "7"]
  end
end
