defmodule Leash.Listing do
  # The maps that `Leash.list/1` returns.
  @moduledoc false

  alias Leash.{Degraded, Registry, Run, Schema, Usage}
  alias Leash.Registry.ExitHistory

  @schema Schema.new(
            usage: [
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
    %{usage: usage?} = Schema.unwrap!(Schema.validate(@schema, options))
    if Run.degraded?(), do: Degraded.list(), else: living(usage?)
  end

  defp living(usage?) do
    rows = Registry.living(:all)
    listed(rows, if(usage?, do: Usage.sums(rows), else: :error))
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
    run_id = Run.id()

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
          restart: row.restart,
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
