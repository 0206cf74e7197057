defmodule Leash.DashboardTest do
  # Serial: it counts the workers of this run.
  use Leash.Test.Case, async: false

  alias Leash.Dashboard

  @params %{sort_by: :worker, sort_dir: :asc, search: nil, limit: nil}

  defp listed(fields) do
    Map.merge(
      %{
        worker: 1,
        kind: :worker,
        pid: self(),
        name: nil,
        label: "sleep",
        group: nil,
        os_pid: 4711,
        tree: :alive,
        age: 1_500,
        processes: 1,
        rss: 2_048,
        cpu: 10
      },
      Map.new(fields)
    )
  end

  test "a row has the worker's name, else its program's, and sizes for people" do
    named = listed(name: MyApp.Embedder, group: :pool, rss: 25_000_000, age: 7_300_000)
    bare = listed(worker: 2, rss: nil, cpu: nil, processes: nil, os_pid: nil)

    assert [first, second] = Dashboard.table([named, bare], @params)
    assert %{name: "MyApp.Embedder", group: ":pool", rss: "23.8 MiB", age: "2.0 h"} = first
    assert %{name: "sleep", group: "", rss: "", cpu: "", os_pid: ""} = second
    assert first.pid == self()
  end

  test "rows are sorted by value, searched by text and cut to the limit" do
    workers = [
      listed(worker: 1, rss: 900_000, name: :b),
      listed(worker: 2, rss: 2_000_000, name: :a),
      listed(worker: 10, rss: 10_000, name: MyApp.C, group: "Pool")
    ]

    numbers = fn params ->
      for row <- Dashboard.table(workers, Map.merge(@params, params)), do: row.worker
    end

    assert numbers.(%{}) == ["1", "2", "10"]
    assert numbers.(%{sort_by: :rss, sort_dir: :desc}) == ["2", "1", "10"]
    assert numbers.(%{sort_by: :name}) == ["2", "1", "10"]
    assert numbers.(%{search: "pOOl"}) == ["10"]
    assert numbers.(%{search: "nothing"}) == []
    assert numbers.(%{limit: 1}) == ["1"]
  end

  test "the rows of this node are its workers, and a node that does not answer has none" do
    name = :"dashboard #{System.unique_integer()}"
    tree = start_tree(:plain, name: name)
    {rows, count} = Dashboard.rows(@params, node())
    assert count >= 1
    os_pid = to_string(elem(tree.os, 0))
    assert [%{os_pid: ^os_pid}] = for(row <- rows, row.name == inspect(name), do: row)
    assert Dashboard.rows(@params, :nobody@nowhere) == {[], 0}
  end

  test "the menu names the page where Leash runs" do
    assert Dashboard.menu_link([], %{applications: [:leash]}) == {:ok, "Leash"}
    assert Dashboard.menu_link([], %{applications: []}) == {:disabled, "Leash"}
    assert {:ok, [], application: :leash} = Dashboard.init([])
  end
end
