defmodule Leash.ErlangTest do
  @moduledoc """
  The module `:leash`: Erlang's input reaches the program, and the module reports mistakes in it.
  """

  use Leash.Test.Case, async: true

  alias Leash.OptionsError

  # The options as Erlang writes them: maps or proplists of charlists.
  defp start(options) do
    {:ok, worker} = :leash.start_link(options)
    worker
  end

  # The program's output goes to the test, and then the program goes on.
  defp said(options, line) do
    me = self()

    worker = start(Map.merge(options, %{shell: line <> "; echo; exec sleep 60", on_output: me}))

    text = read(worker, "")
    {:ok, _exit} = :leash.stop(worker, %{kill: true})
    text
  end

  defp read(worker, text) do
    if String.ends_with?(text, "\n\n") or text == "\n" do
      String.trim_trailing(text)
    else
      receive do
        {:leash_output, ^worker, :stdout, more} -> read(worker, text <> more)
      after
        5_000 -> flunk("only #{inspect(text)}")
      end
    end
  end

  describe "a program" do
    test "that a map or a proplist of charlists describes runs, and its tree ends" do
      decoy = start_decoy("beside Erlang's")

      for options <- [
            &Map.new/1,
            & &1,
            fn options -> [:mark | options] end,
            fn options -> Map.new(options, fn {key, value} -> {key, binaries(value)} end) end
          ] do
        carrier = new_carrier()
        line = Carrier.enter(carrier) <> "setsid sleep 60 & echo ready; exec sleep 60"

        worker =
          start(
            options.(
              command: ~c"sh",
              args: [~c"-c", to_charlist(line)],
              ready: {:regex, ~c"^ready"},
              stop: [{:sigterm, 300}]
            )
          )

        os = Observer.identity(:leash.os_pid(worker))
        shim = Observer.identity(:leash.shim_pid(worker))
        assert length(Carrier.members(carrier)) == 2
        assert Observer.alive?(shim)
        assert %{command: "/" <> _, args: ["-c", ^line]} = :leash.info(worker)

        assert {:ok, %{signal: :sigterm, step: :sigterm, cause: :stop}} = :leash.stop(worker)
        refute Observer.alive?(os) or Observer.alive?(shim)
        assert_gone(carrier)
      end

      assert_unharmed(decoy)
    end

    defp binaries([[_ | _] | _] = texts), do: Enum.map(texts, &binaries/1)
    defp binaries([char | _] = text) when is_integer(char), do: List.to_string(text)
    defp binaries({:regex, text}), do: {:regex, binaries(text)}
    defp binaries(other), do: other

    test "gets characters of every alphabet, and arguments without any" do
      options = %{
        command: ~c"printf",
        args: [~c"<%s>", ~c"żółw", "ключ", [], "", [?a, "b", [~c"c"]]],
        on_output: self()
      }

      worker = start(options)

      assert_receive {:leash_output, ^worker, :stdout, "<żółw><ключ><><><abc>"}, 5_000
      assert_receive {:EXIT, ^worker, :normal}, 5_000
    end

    test "gets variables, of a map or pairs, and loses others" do
      System.put_env("LEASH_ERLANG_TEST", "inherited")
      on_exit(fn -> System.delete_env("LEASH_ERLANG_TEST") end)
      line = "env | grep ^LEASH_ERLANG | sort"
      name = ~c"LEASH_ERLANG_TEST"

      assert said(%{}, line) == "LEASH_ERLANG_TEST=inherited"
      assert said(%{env: [{name, ~c"ä"}]}, line) == "LEASH_ERLANG_TEST=ä"
      assert said(%{env: %{name => "set"}}, line) == "LEASH_ERLANG_TEST=set"
      # On OTP 25 a port unsets a variable whose value is empty.
      assert said(%{env: [{name, []}]}, line) in ["", "LEASH_ERLANG_TEST="]
      assert said(%{env: [{name, false}]}, line) == ""
      assert said(%{env: %{to_string(name) => nil}}, line) == ""
    end

    test "has its directory, name, flag and file as charlists" do
      dir = tmp_dir!()
      file = Path.join(dir, "out")
      chars = to_charlist(dir)

      options = %{
        cd: chars,
        command: ~c"/bin/sh",
        arg0: ~c"a shell",
        run_id_flag: ~c"--run",
        args: [~c"-c", ~c"echo $PWD $0 $1 $2 >&2; echo out; sleep 60; :", ~c"zero"],
        stdout: {:file, to_charlist(file)},
        stderr: {:file, file <> "2"},
        cookie: :undefined
      }

      worker = start(options)
      expected = "#{dir} zero --run #{:leash.run_id()}\n"
      assert_eventually(fn -> File.read(file <> "2") == {:ok, expected} end)
      assert_eventually(fn -> File.read(file) == {:ok, "out\n"} end)
      assert ["a shell" | _] = Observer.argv(:leash.os_pid(worker))
      assert {:ok, _exit} = :leash.stop(worker)
    end

    test "reads what is written to it" do
      worker = start(%{command: ~c"cat", stdin: :pipe, on_output: self()})
      assert :leash.write(worker, [~c"a line", ?\n]) == :ok
      assert_receive {:leash_output, ^worker, :stdout, "a line\n"}, 5_000
      assert :leash.write(worker, "", 100) == :ok
      assert :leash.close_stdin(worker) == :ok
      assert_receive {:EXIT, ^worker, :normal}, 5_000
    end

    test "is found by its name and group, and listed" do
      for name <- [
            {:local, :"leash erlang"},
            :"leash erlang",
            {:global, {__MODULE__, 1}},
            {:via, :global, {__MODULE__, 2}}
          ] do
        group = "group of " <> inspect(name)
        worker = start(name: name, group: to_charlist(group), shell: ~c"exec sleep 60")
        registered = with {:local, name} <- name, do: name
        assert GenServer.whereis(registered) == worker
        os = Observer.identity(:leash.os_pid(registered))
        assert [%{pid: ^worker}] = for(row <- :leash.list(), row.group == group, do: row)
        assert {:ok, [_one]} = :leash.stop_all(to_charlist(group), deadline: 2_000)
        refute Observer.alive?(os)
      end
    end
  end

  describe "ready" do
    test "takes a pattern with modifiers" do
      for ready <- [{:regex, ~c"^GO$", "im"}, {:regex, "^go$", ~c"m"}, {:regex, ~c"go", []}] do
        worker = start(%{shell: "echo no; echo go; exec sleep 60", ready: ready})
        {:ok, _exit} = :leash.stop(worker)
      end

      assert {:error, :ready_timeout} =
               :leash.start_link(%{
                 shell: "echo go; exec sleep 60",
                 ready: {:regex, "^GO$", "m"},
                 ready_timeout: 200
               })
    end

    test "refuses what is none" do
      for ready <- [
            {:regex, "(", ""},
            {:regex, ~c"("},
            {:regex, "x", "?"},
            {:regex, :x},
            {:regex, "x", :i}
          ] do
        assert %OptionsError{key: :ready, value: ^ready} =
                 catch_error(:leash.start_link(%{command: "sleep", args: ["60"], ready: ready}))
      end
    end
  end

  test "a child specification starts it below a supervisor of Erlang's" do
    group = {__MODULE__, :supervised}
    options = %{name: {:local, :leash_erlang_child}, group: group, shell: ~c"exec sleep 60"}
    spec = :leash.child_spec(Map.put(options, :stop, sigterm: 5_000))

    assert %{id: :leash_erlang_child, shutdown: 7_000, start: {:leash, :start_link, [_]}} = spec
    assert {:ok, supervisor} = Supervisor.start_link([spec], strategy: :one_for_one)
    os = Observer.identity(:leash.os_pid(:leash_erlang_child))
    assert Observer.alive?(os)
    Supervisor.stop(supervisor)
    refute Observer.alive?(os)

    # The supervisor's keys do not go to the start.
    own = [id: :mine, restart: :transient, significant: true]

    for given <- [Map.merge(options, Map.new(own)), own ++ Map.to_list(options)] do
      assert %{id: :mine, restart: :transient, significant: true} =
               spec = :leash.child_spec(given)

      assert {:leash, :start_link, [rest]} = spec.start
      assert Map.new(rest) == options
    end

    # The start reports mistakes in the options.
    for bad <- [%{ready: {:regex, "("}}, :none, [:a | :b]],
        do: assert(%{start: {:leash, :start_link, [^bad]}} = :leash.child_spec(bad))
  end

  test "a command takes charlists and returns binaries" do
    assert :leash.cmd(~c"echo", [~c"ü"], %{timeout: 5_000}) == {"ü\n", 0}
    assert :leash.cmd(~c"echo no; exit 3", [], [:shell]) == {"no\n", 3}
    assert :leash.cmd("true") == {"", 0}
    assert :leash.cmd(~c"printf", [~c"%s", []]) == {"", 0}
    assert :leash.cmd("cat", [], input: [~c"in", "put"], into: []) == {["input"], 0}
    assert {"", :timeout} = :leash.cmd("sleep", [~c"60"], timeout: 100, stop: [sigterm: 100])
    assert catch_error(:leash.cmd(~c"/no/such")) == :enoent
    assert %OptionsError{key: :timeout} = catch_error(:leash.cmd("true", [], %{timeout: -1}))
  end

  test "a port takes charlists" do
    port = :leash.open_port(~c"sh", [~c"-c", ~c"echo $0; exit 3", ~c"ö"], [:binary, :exit_status])
    assert_receive {^port, {:data, "ö\n"}}, 5_000
    assert_receive {^port, {:exit_status, 3}}, 5_000
    port = :leash.open_port(~c"sleep", [~c"60"])
    assert Port.close(port)
    assert is_port(:leash.open_port("true"))
  end

  test "a sweep takes options, and says what is wrong with them" do
    assert {:ok, %{matches: _, runs: _}} = :leash.sweep(%{mode: :report, scope: :undefined})
    assert %{key: :mode, value: :kill} = catch_error(:leash.sweep(mode: :kill))
    assert %{key: nil} = catch_error(:leash.sweep([{:mode, :report} | :end]))
  end

  test "bad input is named and starts nothing" do
    before = Process.info(self(), :links)

    for {options, key} <- [
          {%{command: ~c"/no/such"}, :command},
          {%{command: []}, :command},
          {%{command: :sleep}, :command},
          {%{command: [?s, -1]}, :command},
          {%{command: ~c"sleep", args: ~c"60"}, :args},
          {%{command: ~c"sleep", args: [~c"60" | :end]}, :args},
          {%{command: ~c"sleep", args: [60]}, :args},
          {%{command: ~c"sleep", args: [[?a, 0]]}, :args},
          {%{command: ~c"sleep", cd: ~c"/no/such"}, :cd},
          {%{command: ~c"sleep", env: [{~c"A=B", ~c"c"}]}, :env},
          {%{command: ~c"sleep", env: [{:a, ~c"c"}]}, :env},
          {%{command: ~c"sleep", env: [:a]}, :env},
          {%{command: ~c"sleep", group: :all}, :group},
          {%{command: ~c"sleep", group: []}, :group},
          {%{command: ~c"sleep", name: {:local, "x"}}, :name},
          {%{command: ~c"sleep", stdout: {:file, ~c"/no/such/file"}}, :stdout},
          {%{command: ~c"sleep", stop: [{:sigwhat, 1}]}, :stop},
          {[{:command, ~c"sleep"}, :stdin], :stdin},
          {[{:command, ~c"sleep"}, 7], nil},
          {%{~c"command" => ~c"sleep"}, nil},
          {[{:command, "sleep"} | :end], nil},
          {:sleep, nil}
        ] do
      assert %OptionsError{key: ^key, expected: <<_, _::binary>>} =
               error = catch_error(:leash.start_link(options)),
             inspect(options)

      assert [_ | _] = :leash.format_error(error)
    end

    assert Process.info(self(), :links) == before
    assert to_string(:leash.format_error(:ready_timeout)) =~ "was not ready"
    assert catch_error(:leash.stop_all([])).key == :group
    assert catch_error(:leash.stop_all(:some, %{deadline: :soon})).key == :deadline
  end

  test "of an option that is given twice the first counts, as with proplists" do
    error = catch_error(:leash.start_link(command: ~c"/no/such", command: ~c"sleep"))
    assert error.value == "/no/such"
  end

  describe "a program that another process started" do
    @tag :slow
    test "is attached by its number, and stopped by a command of charlists" do
      port = Port.open({:spawn_executable, System.find_executable("sleep")}, args: ["60"])
      {:os_pid, pid} = Port.info(port, :os_pid)
      target = Observer.identity(pid)
      decoy = start_decoy("beside what Erlang attached")
      file = Path.join(tmp_dir!(), "told")

      stop = [
        {:cmd, [~c"sh", ~c"-c", to_charlist("echo told > #{file}")], 2_000},
        {:sigterm, 500}
      ]

      assert {:ok, attachment} =
               :leash.attach(pid, %{stop: [{:cmd, [~c"false"], 2_000} | stop], group: ~c"erl"})

      assert :leash.tree(~c"erl") =~ "sleep 60"

      assert [%{group: "erl", processes: 1}] =
               for(%{group: "erl"} = row <- :leash.list(), do: row)

      assert Observer.alive?(target)

      assert {:ok, %{steps: [%{result: {:status, 1}}, %{command: [_, _, _]} | _]}} =
               :leash.stop(attachment)

      assert File.read!(file) == "told\n"
      refute Observer.alive?(target)
      assert_unharmed(decoy)
      assert {:error, :not_found} = :leash.adopt(~c"nobody")
    end
  end
end
