defmodule Leash.Situations.TestExecutorTest do
  @moduledoc """
  An executor runs other people's tests for two seconds each. Tests that want to print something
  before they end get a grace of one and a half seconds. The output until then is the result.
  """

  use Leash.Test.Case, async: true

  @moduletag :slow

  @timeout 2_000
  @grace 1_500

  # The time that a machine under load adds.
  @slack 3_000

  # Two tests are through. The third hangs with helpers, one of them in a session of its own.
  @tests "echo test 1 ok; echo test 2 ok; sleep 300 & setsid sleep 300 & "

  defp execute(line, seen \\ fn -> :ok end) do
    carrier = new_carrier()
    decoy = start_decoy("beside a test executor")
    line = Carrier.enter(carrier) <> line

    task =
      Task.async(fn ->
        :timer.tc(fn ->
          Leash.cmd(line, [],
            shell: true,
            timeout: @timeout,
            stop: [sigterm: @grace],
            stderr: :null
          )
        end)
      end)

    # The shell, its helpers and the programs of the loop.
    assert_eventually(fn -> length(Carrier.members(carrier)) >= 3 end)
    seen.()
    {us, {output, status}} = Task.await(task, 20_000)
    # The return of the call means that nothing is left.
    assert_gone(carrier)
    assert_unharmed(decoy)
    %{ms: div(us, 1_000), output: output, status: status}
  end

  test "a test that hangs is ended, and has its partial output" do
    run = execute(@tests <> "while :; do sleep 0.1; done")
    assert run.status == :timeout
    assert run.output == "test 1 ok\ntest 2 ok\n"
    assert run.ms in @timeout..(@timeout + @grace + @slack)
  end

  test "a test with something to say in the grace is heard" do
    run =
      execute(
        @tests <>
          "trap 'sleep 0.3; echo test 3 interrupted; exit 1' TERM; while :; do sleep 0.1; done"
      )

    assert run.status == :timeout
    assert run.output == "test 1 ok\ntest 2 ok\ntest 3 interrupted\n"
    assert run.ms in (@timeout + 300)..(@timeout + @grace + @slack)
  end

  test "a test that ignores the signal is killed after the grace, and no sooner" do
    run = execute("trap 'echo not yet' TERM; " <> @tests <> "while :; do sleep 0.1; done")
    assert run.status == :timeout
    assert run.output =~ ~r/\Atest 1 ok\ntest 2 ok\n(.*\n)*not yet\n/
    assert run.ms in (@timeout + @grace)..(@timeout + @grace + @slack)
  end

  test "a test that is through in time has its status, and leaves nothing" do
    helper = "sleep 300 >/dev/null 2>&1 & "
    seen = Path.join(tmp_dir!(), "seen")
    wait = "until [ -e #{seen} ]; do sleep 0.02; done; "
    line = "echo test 1 ok; " <> helper <> "setsid " <> helper <> wait <> "exit 7"
    run = execute(line, fn -> File.touch!(seen) end)
    assert run.status == 7
    assert run.output == "test 1 ok\n"
    assert run.ms < @timeout
  end
end
