defmodule Leash.Worker.OptionsTest do
  use ExUnit.Case, async: true

  alias Leash.OptionsError
  alias Leash.Worker.Options

  defp refused(options) do
    assert {:error, %OptionsError{} = error} = Options.validate(options)
    {error.key, Exception.message(error)}
  end

  test "a command is looked up in PATH and gets the defaults" do
    assert {:ok, options} = Options.validate(command: "sleep", args: ["1"])
    assert options.command == System.find_executable("sleep")
    assert options.stop == [sigterm: 2_000]
    assert options.stdin == :null
    assert options.linger == 200
  end

  test "options may come as a map" do
    assert {:ok, %{args: ["1"]}} = Options.validate(%{command: "sleep", args: ["1"]})
  end

  test "a shell line becomes sh -c" do
    assert {:ok, %{command: "/bin/sh", args: ["-c", "a | b"]}} = Options.validate(shell: "a | b")
  end

  test "variables of a map become a list" do
    assert {:ok, %{env: env}} =
             Options.validate(command: "true", env: %{"A" => "ä", "B" => nil, "C" => ""})

    assert Enum.sort(env) == [{"A", "ä"}, {"B", nil}, {"C", ""}]
  end

  test "each error names key, expectation and value" do
    for {options, key, pattern} <- [
          {[command: "sleep", colour: 1], nil, ~r/expected one of \[:command.*got: :colour/},
          {[], :command, ~r/:command or :shell is required/},
          {:nonsense, nil, ~r/expected a keyword list or a map.*got: :nonsense/},
          {[command: "sleep", shell: "x"], :shell, ~r/nothing beside :command/},
          {[shell: "x", args: ["y"]], :args, ~r/no arguments beside :shell.*got: \["y"\]/},
          {[command: ~c"sleep"], :command,
           ~r/expected a string without NUL.*got: ~c"sleep"|'sleep'/},
          {[command: ""], :command, ~r/expected a string/},
          {[command: "sl\0eep"], :command, ~r/without NUL bytes, got: "sl\\0eep"|<</},
          {[command: "no-such-program-here"], :command,
           ~r/an executable in PATH \(enoent\), got: "no-such/},
          {[command: "/etc/passwd"], :command,
           ~r/an executable file \(eacces\), got: "\/etc\/passwd"/},
          {[command: "/etc"], :command, ~r/an executable file \(it is a directory\)/},
          {[command: "/nowhere/x"], :command, ~r/an executable file \(enoent\)/},
          {[command: "sleep", args: "1"], :args,
           ~r/a list of strings without NUL bytes, got: "1"/},
          {[command: "sleep", args: ["a\0b"]], :args, ~r/a list of strings without NUL bytes/},
          {[command: "sleep", args: [1]], :args, ~r/got: \[1\]/},
          {[command: "sleep", args: [String.duplicate("a", 131_072)]], :args,
           ~r/at most 131071 bytes, got: .*\(131072 bytes\)/},
          {[command: "sleep", cd: "/nowhere"], :cd,
           ~r/can be entered \(enoent\), got: "\/nowhere"/},
          {[command: "sleep", cd: "/etc/passwd"], :cd, ~r/a directory \(it is a regular\)/},
          {[command: "sleep", env: %{"A=B" => "1"}], :env, ~r/no "=", no NUL/},
          {[command: "sleep", env: %{"" => "1"}], :env, ~r/pairs of a name/},
          {[command: "sleep", env: %{"A" => "x\0"}], :env, ~r/pairs of a name/},
          {[command: "sleep", env: %{"A" => <<0xFF>>}], :env, ~r/UTF-8/},
          {[command: "sleep", env: %{"LEASH_RUN" => "x"}], :env, ~r/not LEASH_RUN/},
          {[command: "sleep", env: [:a]], :env, ~r/pairs of a name/},
          {[command: "sleep", stdin: :file], :stdin, ~r/:null or :open or :pipe, got: :file/},
          {[command: "sleep", stdout: {:file, "/nowhere/x"}], :stdout,
           ~r/a directory that exists/},
          {[command: "sleep", stdout: {:file, "/etc"}], :stdout, ~r/it is a directory/},
          {[command: "sleep", stderr: :both], :stderr,
           ~r/:output, :null, :stdout, \{:file, path\}/},
          {[command: "sleep", stop: [sigfoo: 1]], :stop,
           ~r/a list of at most 8 steps.*got: \[sigfoo: 1\]/},
          {[command: "sleep", on_output: 1], :on_output, ~r/:log, .*a pid, a function/},
          {[command: "sleep", ready: "x"], :ready,
           ~r|a regex for a line of stdout, \{:tcp, port\}, .*\{:unix, "/absolute/path"\}|},
          {[command: "sleep", ready: {:tcp, 0}], :ready, ~r/got: \{:tcp, 0\}/},
          {[command: "sleep", ready: ~r/x/, stdout: :null], :stdout, ~r/:ready waits for a line/},
          {[command: "sleep", ready_timeout: -1], :ready_timeout,
           ~r/non-negative number of milliseconds, got: -1/},
          {[command: "sleep", on_exit: :leave], :on_exit,
           ~r/expected :stop or :keep or :detach, got: :leave/},
          {[command: "sleep", exit_reason: 1], :exit_reason, ~r/a function of one argument/},
          {[command: "sleep", run_id_flag: ""], :run_id_flag, ~r/a string without NUL/},
          {[command: "sleep", name: "x"], :name, ~r/a name as GenServer accepts it/},
          {[command: "sleep", mark: nil], :mark, ~r/true or false, got: nil/}
        ] do
      {seen_key, message} = refused(options)
      assert seen_key == key, "#{inspect(options)} gave #{message}"
      assert message =~ pattern, "#{inspect(options)} gave #{message}"
    end
  end

  test "values of variables are not shown, and the name of the wrong one is" do
    {:env, message} = refused(command: "sleep", env: %{"A" => "x", "TOKEN" => "s3cret\0"})
    refute message =~ "s3cret"
    assert message =~ "; the value of \"TOKEN\" is no string, got: variables not shown"
    {:env, message} = refused(command: "sleep", env: [{"A", "x"}, {"B=C", "s3cret"}])
    refute message =~ "s3cret"
    assert message =~ "; \"B=C\" is no name"
    {:env, message} = refused(command: "sleep", env: [{"A", "s3cret"} | :b])
    refute message =~ "s3cret"
  end

  test "the report of a supervisor shows no value of a variable" do
    Process.flag(:trap_exit, true)
    worker = {Leash.Worker, command: "sleep", env: %{"TOKEN" => "s3cret\0"}}

    assert {:error, {:shutdown, {:failed_to_start_child, _id, {:EXIT, {error, _stack}}}}} =
             Supervisor.start_link([worker], strategy: :one_for_one)

    assert %OptionsError{key: :env} = error
    assert inspect(error) =~ "variables not shown"
    refute inspect(error) =~ "s3cret"
  end

  test "a name that was probably meant is named" do
    for {wrong, hint} <- [
          {:redy, "did you mean :ready?"},
          {:cwd, "did you mean :cd?"},
          {:timeout, "did you mean :ready_timeout?"},
          {:uid, "did you mean :user?"},
          {:log_output, "did you mean :on_output?"}
        ] do
      {nil, message} = refused([{:command, "sleep"}, {wrong, 1}])
      assert message =~ "got: #{inspect(wrong)} (#{hint})"
    end

    {nil, message} = refused(command: "sleep", colour: 1)
    assert String.ends_with?(message, "got: :colour")
    {:stop, message} = refused(command: "sleep", stop: [term: 1])
    assert message =~ ": :term is no signal, did you mean :sigterm?, got: [term: 1]"
  end

  test "a line as command is told of args: and shell:" do
    assert refused(command: "sleep 1") ==
             {:command,
              "invalid value for :command option: expected an executable in PATH (enoent), got: " <>
                "\"sleep 1\" (arguments go to args: `command: \"sleep\", args: [\"1\"]`, and a " <>
                "line for sh to shell:)"}

    {:command, message} = refused(command: "/bin/sleep 1")
    assert message =~ "args: [\"1\"]"
    {:command, message} = refused(command: "no-such-program")
    refute message =~ "args:"
  end

  test "wrong options start nothing" do
    assert %OptionsError{key: :cd} =
             catch_error(Leash.Worker.start_link(command: "sleep", cd: "/nowhere"))
  end
end
