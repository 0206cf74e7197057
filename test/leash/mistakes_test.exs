defmodule Leash.MistakesTest do
  # What a new user gets wrong, and what is said. Each sentence says what to write instead.
  use ExUnit.Case, async: true

  alias Leash.{Config, Error, Worker}

  # The text in parentheses at the end of the message.
  defp hint(call) do
    error = assert_raise Leash.OptionsError, call
    assert Exception.message(error) =~ " (#{error.hint})"
    error.hint
  end

  for {name, options, hint} <- [
        {"a line of arguments", [args: "-l -a"], ~S|did you mean ["-l", "-a"]?|},
        {"a number as argument", [args: ["-n", 5]], ~S|did you mean ["-n", "5"]?|},
        {"a charlist", [cd: ~c"/tmp"], ~S|did you mean "/tmp"?|},
        {"milliseconds as ladder", [stop: 5_000], "did you mean [sigterm: 5000]?"},
        {"signals without time", [stop: [:sigint]], "did you mean [sigint: 2000]?"},
        {"a ready line", [ready: "READY"], "did you mean ~r/READY/?"},
        {"a ready port", [ready: 4_000], "did you mean {:tcp, 4000}?"},
        {"a port by another name", [ready: {:port, 4_000}], "did you mean {:tcp, 4000}?"},
        {"a port to be checked", [health: [check: 4_000]], "did you mean {:tcp, 4000}?"},
        {"a name as text", [name: "embedder"], "did you mean :embedder?"},
        {"a path for output", [stdout: "/tmp/a.log"], ~S|did you mean {:file, "/tmp/a.log"}?|},
        {"every group", [group: :all], ":all stands for every group"},
        {"a home directory", [cd: "~/kennel"], "only a shell expands ~, and Path.expand/1 does"}
      ] do
    test "#{name} gets the right form" do
      options = [command: "true"] ++ unquote(Macro.escape(options))
      assert hint(fn -> Worker.start_link(options) end) == unquote(hint)
    end
  end

  test "a program in a home directory is not looked for by a shell" do
    assert hint(fn -> Worker.start_link(command: "~/bin/bark") end) =~ "Path.expand/1"
  end

  test "a relative path that is not there names its directory, and what a release needs" do
    hint = hint(fn -> Worker.start_link(command: "priv/bark.py") end)

    assert hint ==
             "it starts at #{File.cwd!()}; Application.app_dir(:my_app, \"priv/bark.py\") " <>
               "has a path that holds in a release"
  end

  @tag :tmp_dir
  test "a file that is not executable gets the command that makes it so", %{tmp_dir: dir} do
    path = Path.join(dir, "bark.py")
    File.write!(path, "print(1)")
    assert hint(fn -> Worker.start_link(command: path) end) =~ "chmod +x #{path}, or name its"
    message = "#{inspect(path)} is not an executable file: chmod +x, or name its interpreter"
    assert uncaught(fn -> Leash.cmd(path) end) == {:eacces, message}
  end

  test "cmd names the program that is not there" do
    message = ~S|there is no program "pyton3" in PATH|
    assert uncaught(fn -> Leash.cmd("pyton3") end) == {:enoent, message}
    message = ~S|there is no file "/no/pyton3"|
    assert uncaught(fn -> Leash.open_port("/no/pyton3") end) == {:enoent, message}
  end

  # The error of System.cmd/3, and what is said beside it.
  defp uncaught(call) do
    call.()
  rescue
    error in ErlangError ->
      [{module, _function, _args, info} | _callers] = __STACKTRACE__
      assert info[:error_info][:module] == module
      {error.original, module.format_error(error.original, __STACKTRACE__).general}
  end

  test "cmd and open_port name what they got for their arguments" do
    error = assert_raise ArgumentError, fn -> Leash.cmd("sleep", [5]) end
    assert Exception.message(error) =~ ~S|got: "sleep", [5]|
    assert hint(fn -> Leash.open_port("cat", [:binary]) end) == "options come after the arguments"
    assert hint(fn -> Leash.open_port({:spawn, "cat"}) end) =~ "given apart"
  end

  test "values of variables are not hinted at, and names of atoms are" do
    error =
      assert_raise Leash.OptionsError, fn ->
        Worker.start_link(command: "true", env: [TOKEN: "s3cret"])
      end

    assert Exception.message(error) =~ ~S|:TOKEN is no name, did you mean "TOKEN"?|
    refute Exception.message(error) =~ "s3cret"
    refute inspect(error) =~ "s3cret"
  end

  test "a supervisor's report has the sentence and not the struct" do
    Process.flag(:trap_exit, true)
    children = [{Worker, command: "true", reday: ~r/READY/}]
    assert {:error, reason} = Supervisor.start_link(children, strategy: :one_for_one)
    assert inspect(reason) =~ "#Leash.OptionsError<invalid options: expected one of"
    assert Error.format(reason) =~ ~r/^child .*: invalid options: .*did you mean :ready\?/
    refute inspect(reason) =~ "%Leash.OptionsError"
    assert inspect(%Error{reason: :stopping}) =~ "#Leash.Error<Leash.stop_all/2 is ending"
  end

  test "every reason about the run directory says what to type" do
    for {reason, typed} <- [
          {{:loose_permissions, "/r"}, "type: chmod 700 /r"},
          {{:enoent, "/r/s"}, "type: mkdir -p /r"},
          {{:foreign_owner, "/r"}, "name another directory with run_dir:"},
          {{:symlink, "/r"}, "name its target with run_dir:"},
          {{:erofs, "/r"}, "/r: read-only file system (erofs)"}
        ] do
      assert Error.format(reason) =~ typed
      assert Error.format({:record, "/r", reason}) =~ typed
    end

    assert Error.format({:exec, :enoent}) =~ "interpreter is missing"
    assert Error.format({:native_library, :on_load_failure}) =~ "noexec"
    assert Error.format(:not_running) =~ "Application.ensure_all_started(:leash)"
  end

  test "the sweep is turned off by false alone" do
    for wrong <- [nil, true, :off, :app, "false", %{scope: :app}, [scope: :all], [:app]] do
      options = [type: Config.schema().options[:sweep][:type], type_doc: "a sweep"]
      schema = Leash.Schema.new(sweep: options)
      assert {:error, %Leash.OptionsError{}} = Leash.Schema.validate(schema, sweep: wrong)
      assert {:ok, %{sweep: false}} = Leash.Schema.validate(schema, sweep: false)
      assert {:ok, %{sweep: [_ | _]}} = Leash.Schema.validate(schema, sweep: [])
    end
  end

  test "the application's name may be an atom, and the run directory is absolute" do
    schema = Config.schema()
    assert {:ok, %{app: "shop"}} = Leash.Schema.validate(schema, app: :shop)
    assert {:ok, %{app: "shop"}} = Leash.Schema.validate(schema, app: "shop")
    assert {:error, %{key: :app}} = Leash.Schema.validate(schema, app: true)
    assert {:error, error} = Leash.Schema.validate(schema, run_dir: "tmp/leash")
    assert Exception.message(error) =~ "expected an absolute path, got: \"tmp/leash\""
  end
end
