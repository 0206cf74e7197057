defmodule Leash.Worker.ChildSpecTest do
  use ExUnit.Case, async: true

  alias Leash.{OptionsError, Worker}

  test "two workers of one program have two ids, by arguments or name" do
    options = [
      [command: "sleep", args: ["60"]],
      [command: "sleep", args: ["61"]],
      [shell: "sleep 60"],
      [command: "sleep", args: ["60"], name: ChildSpecTest.First],
      [command: "sleep", args: ["60"], name: ChildSpecTest.Second]
    ]

    ids = for own <- options, do: Worker.child_spec(own).id
    assert Enum.uniq(ids) == ids
    assert ids == for(own <- options, do: Worker.child_spec(Map.new(own)).id)

    {:ok, supervisor} =
      Supervisor.start_link(for(own <- options, do: {Worker, own}), strategy: :one_for_one)

    assert %{active: 5} = Supervisor.count_children(supervisor)
    Supervisor.stop(supervisor)
  end

  test "id, restart, shutdown and significant are a supervisor's, not worker options" do
    own = [id: :mine, restart: :transient, shutdown: 700, significant: true]
    worker = [command: "sleep", args: ["60"]]

    for options <- [own ++ worker, Map.new(own ++ worker)] do
      spec = Worker.child_spec(options)
      assert %{id: :mine, restart: :transient, shutdown: 700, significant: true} = spec
      assert {Worker, :start_link, [rest]} = spec.start
      assert Enum.sort(rest) == Enum.sort(worker)
    end

    assert %{shutdown: :brutal_kill} = Worker.child_spec([shutdown: :brutal_kill] ++ worker)
    assert %{shutdown: :infinity} = Worker.child_spec([shutdown: :infinity] ++ worker)
  end

  test "what is not given is a supervisor's default, and the length of the ladder" do
    spec = Worker.child_spec(command: "sleep", stop: [sigint: 500, sigterm: 1_500])
    assert %{restart: :permanent, shutdown: 4_000, significant: false, type: :worker} = spec
  end

  test "a wrong value is refused with key, expectation and value" do
    for {key, value} <- [restart: :sometimes, shutdown: -1, shutdown: :later, significant: 1] do
      error =
        assert_raise OptionsError, fn -> Worker.child_spec([{key, value}, command: "sleep"]) end

      assert %{key: ^key, value: ^value} = error
      assert Exception.message(error) =~ inspect(value)
    end
  end

  test "wrong options of the worker raise at its start" do
    for options <- [[command: 7], :nothing, [1, 2]] do
      spec = Worker.child_spec(options)
      assert {Worker, :start_link, [^options]} = spec.start
      assert %OptionsError{} = catch_error(Worker.start_link(options))
    end
  end
end
