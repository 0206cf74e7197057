defmodule Leash.Listing do
  # The maps that `Leash.list/1` and `Leash.info/1` return.
  @moduledoc false

  alias Leash.{Registry, Run, Schema, Usage}
  alias Leash.Registry.ExitHistory

  @schema Schema.new(
            vitals: [
              type: :boolean,
              default: true,
              doc:
                "`false` skips the look at `/proc`. Then `:processes`, `:rss` and `:cpu` " <>
                  "are nil, and the rest comes from a table."
            ]
          )

  @doc "The options of `Leash.list/1`."
  @spec schema() :: Schema.t()
  def schema, do: @schema

  @spec list(keyword() | map()) :: [Leash.listed()]
  def list(options) do
    case Schema.validate(@schema, options) do
      {:ok, %{vitals: vitals?}} ->
        rows = Registry.living(:all)
        sums = if vitals?, do: Usage.sums(rows), else: :error
        listed(rows, sums)

      {:error, error} ->
        raise error
    end
  end

  @spec info(pid() | pos_integer() | GenServer.name()) ::
          map() | nil
  def info(which) do
    # A second worker may have the name: its process is gone, and its tree is being looked for.
    case Registry.living(:all)
         |> Enum.filter(&same?(&1, which))
         |> Enum.max_by(& &1.began, fn -> nil end) do
      nil -> nil
      row -> members(row)
    end
  end

  defp members(row) do
    case Usage.members([row]) do
      {:ok, members} ->
        members = Map.get(members, row.number, [])
        [listed] = listed([row], {:ok, %{row.number => Usage.sum(members)}})
        Map.put(listed, :members, members)

      :error ->
        [listed] = listed([row], :error)
        Map.put(listed, :members, nil)
    end
  end

  @doc "Returns whether a worker has this pid, number or name."
  @spec same?(Registry.row(), term()) :: boolean()
  def same?(%{pid: pid}, pid) when is_pid(pid), do: true
  def same?(%{number: number}, number) when is_integer(number), do: true
  def same?(%{name: name}, name) when name != nil, do: true
  def same?(_row, _which), do: false

  @doc "Returns rows as users see them."
  @spec listed([Registry.row()], {:ok, %{pos_integer() => Usage.sums()}} | :error) ::
          [Leash.listed()]
  def listed(rows, sums) do
    now = System.monotonic_time()
    run_id = with {:ok, run} <- Run.fetch(), do: run.id, else: (:error -> nil)

    for row <- rows do
      Map.merge(
        %{
          run_id: run_id,
          worker: row.number,
          kind: row.kind,
          pid: row.pid,
          name: row.name,
          label: row.label,
          group: row.group,
          os_pid: row.os_pid,
          shim_pid: row.shim,
          tree: row.tree,
          age: System.convert_time_unit(now - row.began, :native, :millisecond),
          last_exit: ExitHistory.fetch(row.name, row.began)
        },
        sums_of(row, sums)
      )
    end
  end

  defp sums_of(row, {:ok, sums}), do: Map.get(sums, row.number, Usage.none())
  defp sums_of(_row, :error), do: %{processes: nil, rss: nil, cpu: nil}
end
