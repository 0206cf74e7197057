defmodule Leash.LadderTest do
  use ExUnit.Case, async: true

  alias Leash.Ladder

  test "writes the shim's option" do
    assert Ladder.to_option(sigterm: 2_000) == "15:2000@group"
    assert Ladder.to_option(sigint: 500, sigterm: 1_500) == "2:500@group,15:1500@group"
    assert Ladder.to_option([{:sigint, :infinity, to: :leader}]) == "2:inf@leader"
    assert Ladder.to_option([]) == "KILL:0"
    assert Ladder.to_option([{:cmd, ["x"], 5}, {:cmd, ["y"], :infinity}]) == "CMD:5,CMD:inf"
    assert Ladder.to_option(close_stdin: 5, sigterm: 1) == "STDIN:5,15:1@group"
    assert Ladder.to_option(close_stdin: :infinity) == "STDIN:inf"
  end

  test "finds the commands of the steps" do
    steps = [{:cmd, ["x", "y"], 5}, {:sigterm, 1}, {:cmd, ["z"], :infinity}]
    assert Ladder.commands(steps) == [["x", "y"], ["z"]]
    assert for(index <- 0..3, do: Ladder.command(steps, index)) == [["x", "y"], nil, ["z"], nil]
    assert Ladder.valid?(steps) and not Ladder.signals?(steps)
    assert Ladder.signals?(sigterm: 1)
    refute Ladder.signals?(sigfoo: 1)
    refute Ladder.signals?(close_stdin: 1)
  end

  test "counts how long it can take" do
    assert Ladder.duration([]) == 0
    assert Ladder.duration(sigint: 500, sigterm: 1_500) == 2_000
    assert Ladder.duration(sigint: :infinity, sigterm: 1_500) == :infinity
    assert Ladder.duration([{:cmd, ["x"], 700}, {:sigterm, 300}]) == 1_000
    assert Ladder.duration([{:cmd, ["x"], :infinity}, {:sigterm, 300}]) == :infinity
    assert Ladder.shutdown(sigterm: 2_000) == 4_000
    assert Ladder.shutdown(sigterm: :infinity) == :infinity
  end

  test "names the signal that was meant" do
    for {wrong, meant} <- [
          {:term, :sigterm},
          {:SIGTERM, :sigterm},
          {:TERM, :sigterm},
          {"TERM", :sigterm},
          {"SIGINT", :sigint},
          {:sigtrem, :sigterm},
          {:kill, :sigkill},
          {:usr1, :sigusr1}
        ],
        step <- [{wrong, 1}, {wrong, 1, to: :tree}, wrong] do
      assert {:error, text} = Ladder.check([{:sigint, 1}, step], :any)
      assert text =~ "a list of at most 8 steps"
      assert text =~ ": #{inspect(wrong)} is no signal, did you mean #{inspect(meant)}?"
    end

    for wrong <- [[sigfoo: 1], [stdin: 1], [{nil, 1}], [{0, 1}], [sigterm: -1], [{}], :sigterm] do
      assert {:error, text} = Ladder.check(wrong, :signals)
      refute text =~ "did you mean"
    end
  end

  test "refuses what no shim understands" do
    for bad <- [
          :sigterm,
          [:sigterm],
          [sigterm: -1],
          [sigterm: 1.5],
          [sigterm: 3_000_000_000],
          [sigfoo: 1],
          [{:sigterm, 1, to: :everybody}],
          [{0, 1}],
          [close_stdin: -1],
          [{:close_stdin, 1, to: :tree}],
          [{65, 1}],
          List.duplicate({:sigterm, 1}, 9)
        ] do
      refute Ladder.valid?(bad), inspect(bad)
    end

    for good <- [[], [sigterm: 0], [{34, 10}], [{:sigterm, :infinity, to: :tree}]] do
      assert Ladder.valid?(good), inspect(good)
    end
  end
end
