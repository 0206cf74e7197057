defmodule Leash.Command.OptionsTest do
  use ExUnit.Case, async: true

  alias Leash.Command.Options
  alias Leash.{OptionsError, Worker}

  defp worker(options, command \\ "/bin/true") do
    {_own, worker} = Options.validate!(Options.cmd(), command, [], options)
    worker
  end

  test "what is not given is as a Worker has it" do
    {:ok, plain} = Worker.Options.validate(command: "/bin/true")
    shared = [:command, :cd, :env, :arg0, :stop, :on_exit, :mark, :run_id_flag]
    assert Map.take(worker([]), shared) == Map.take(plain, shared)
  end

  test "what a Worker takes reaches it" do
    given = [
      cd: "/",
      arg0: "other",
      stop: [sigint: 1],
      on_exit: :keep,
      mark: true,
      run_id_flag: "--run-id"
    ]

    assert Map.take(worker(given), Keyword.keys(given)) == Map.new(given)
    assert worker(env: %{"A" => "b"}).env == [{"A", "b"}]
    assert worker(env: Stream.map(["A"], &{&1, nil}), timeout: 5).env == [{"A", nil}]
    assert worker(cd: "/", cd: "/tmp").cd == "/"
  end

  test "it is checked as a Worker checks it" do
    for {options, key} <- [
          {[cd: "/no/such/directory"], :cd},
          {[on_exit: :keep, mark: false], :mark},
          {[env: nil], :env},
          {[stderr: {:file, "/no/such/directory/x"}], :stderr}
        ] do
      assert %OptionsError{key: ^key} = catch_error(worker(options))
    end

    assert catch_error(worker([], "/no/such/program")) == :enoent
    assert catch_error(worker([], "/etc/passwd")) == :eacces
    assert catch_error(worker([], "/etc")) == :eacces
  end
end
