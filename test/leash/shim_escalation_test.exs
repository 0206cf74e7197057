defmodule Leash.Shim.EscalationTest do
  use ExUnit.Case, async: true

  alias Leash.Shim.Escalation

  test "only a crash asks what on_crash says" do
    for on_crash <- [:kill, :ladder] do
      for reason <- [:normal, :shutdown, {:shutdown, :done}],
          do: assert(Escalation.how(reason, on_crash) == :ladder)

      for reason <- [:kill, :killed, :oops, {:shutdown, 1, 2}, {%RuntimeError{}, []}],
          do: assert(Escalation.how(reason, on_crash) == on_crash)
    end
  end

  test "from any stage it is a few bounded steps to the look by the tags" do
    assert {:tell, :kill} = Escalation.next(:ladder)
    assert {:tell, :sigkill} = Escalation.next(:kill)
    assert :look = Escalation.next(:sigkill)

    stages = [:ladder, :kill, :sigkill]
    together = Enum.sum(for stage <- stages, do: Escalation.bound(stage, 700))
    assert together == 700 + 3_000
    assert Escalation.total(700) > together
  end

  test "a ladder without an end has no bound, and what comes after it has" do
    assert Escalation.bound(:ladder, :infinity) == :infinity
    assert Escalation.total(:infinity) == :infinity
    assert Escalation.bound(:kill, :infinity) == 1_000
  end
end
