defmodule Leash.Dashboard do
  @columns [
    worker: "Worker",
    name: "Name",
    group: "Group",
    kind: "Kind",
    os_pid: "OS pid",
    processes: "Processes",
    rss: "Memory",
    cpu: "CPU time",
    age: "Age",
    tree: "Tree"
  ]

  @moduledoc """
  A page of Phoenix LiveDashboard: the workers of a node, and what their trees take.

      live_dashboard "/dashboard", additional_pages: [leash: Leash.Dashboard]

  The page needs `phoenix_live_dashboard` 0.8 or newer in the host. Leash does not depend on it.
  The table is that of `Leash.list/0` on the node that the dashboard shows. Every column sorts,
  and the search looks at name, group, kind, OS pid and number. A click on a row shows the Elixir
  process of the worker.

  The page ends nothing. For that there are `leash top`, `leash stop` and `Leash.stop_all/2`.
  """

  # The callbacks of Phoenix.LiveDashboard.PageBuilder, without `use`: that would have to be
  # compiled before Leash, and so be a dependency. Components are functions of one map.

  @builder Phoenix.LiveDashboard.PageBuilder

  @typedoc "What LiveDashboard's table asks for."
  @type params :: %{
          :sort_by => atom(),
          :sort_dir => :asc | :desc,
          :search => String.t() | nil,
          :limit => pos_integer() | nil,
          optional(atom()) => term()
        }

  @typedoc "A row of the table. The values are text, but for `:pid`."
  @type row :: %{required(atom()) => String.t() | pid()}

  @doc false
  @spec __page_live__(:refresher?) :: true
  def __page_live__(:refresher?), do: true

  @doc false
  @spec init(term()) :: {:ok, term(), [{:application, :leash}]}
  def init(options), do: {:ok, options, application: :leash}

  @doc false
  @spec menu_link(term(), map()) :: {:ok, String.t()} | {:disabled, String.t()}
  def menu_link(_session, %{applications: applications}),
    do: if(:leash in applications, do: {:ok, "Leash"}, else: {:disabled, "Leash"})

  @doc false
  @spec render(map()) :: struct()
  def render(assigns) do
    columns =
      for {field, header} <- @columns,
          do: %{__slot__: :col, field: field, header: header, sortable: direction(field)}

    table = %{
      __changed__: nil,
      id: "leash-workers",
      dom_id: "leash-workers",
      page: assigns.page,
      title: "Workers",
      row_fetcher: &rows/2,
      row_attrs: &attributes/1,
      default_sort_by: :worker,
      col: columns
    }

    apply(@builder, :live_table, [table])
  end

  # What is large comes first.
  defp direction(field) when field in [:processes, :rss, :cpu, :age], do: :desc
  defp direction(_field), do: :asc

  defp attributes(row) do
    [
      {"phx-click", "show_info"},
      {"phx-value-info", apply(@builder, :encode_pid, [row.pid])},
      {"phx-page-loading", true}
    ]
  end

  @doc """
  Returns the rows of the table for a node, and the number of its workers.

  A node without a running `:leash` has none.
  """
  @spec rows(params(), node()) :: {[row()], non_neg_integer()}
  def rows(params, node) do
    %{^node => answer} = Leash.Cluster.list(nodes: [node])

    workers =
      case answer do
        {:ok, workers} -> workers
        {:error, _reason} -> []
      end

    {table(workers, params), length(workers)}
  end

  @doc false
  @spec table([Leash.listed()], params()) :: [row()]
  def table(workers, params) do
    workers
    |> Enum.map(&{named(&1), shown(&1)})
    |> Enum.filter(fn {_worker, row} -> found?(row, params.search) end)
    |> Enum.sort_by(fn {worker, _row} -> worker[params.sort_by] end, params.sort_dir)
    |> Enum.take(params.limit || length(workers))
    |> Enum.map(&elem(&1, 1))
  end

  # A worker without a name is called after its program.
  defp named(worker),
    do: %{worker | name: if(worker.name, do: inspect(worker.name), else: worker.label)}

  defp shown(worker) do
    %{
      pid: worker.pid,
      worker: to_string(worker.worker),
      name: named(worker).name,
      group: if(worker.group == nil, do: "", else: inspect(worker.group)),
      kind: to_string(worker.kind),
      os_pid: to_string(worker.os_pid),
      processes: to_string(worker.processes),
      rss: size(worker.rss),
      cpu: time(worker.cpu),
      age: time(worker.age),
      tree: to_string(worker.tree)
    }
  end

  defp found?(_row, nil), do: true

  defp found?(row, text) do
    text = String.downcase(text)

    row
    |> Map.take([:worker, :name, :group, :kind, :os_pid])
    |> Enum.any?(fn {_key, value} -> value |> String.downcase() |> String.contains?(text) end)
  end

  defp size(nil), do: ""
  defp size(bytes) when bytes < 1_048_576, do: "#{div(bytes, 1024)} KiB"
  defp size(bytes), do: "#{Float.round(bytes / 1_048_576, 1)} MiB"

  defp time(nil), do: ""
  defp time(ms) when ms < 60_000, do: "#{Float.round(ms / 1_000, 1)} s"
  defp time(ms) when ms < 3_600_000, do: "#{div(ms, 60_000)} min"
  defp time(ms), do: "#{Float.round(ms / 3_600_000, 1)} h"
end
